"""Rewards that are a rule, by hand numbers."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny import EOS, GOOD, PAD, numbers, prompts_of, tiny_settings, tiny_tokenizer
from torch import Tensor

from rlhf.batches.tables import read_table, write_table
from rlhf.common.errors import DataError, SettingsError
from rlhf.engine import make_engine
from rlhf.models.roles import Models
from rlhf.rewards.base import RewardContext, RewardSum, make_rewards
from rlhf.rewards.rules import (
    answer_in,
    number_of,
    overlong_penalty,
    repeated_share,
    same_answer,
)
from rlhf.rollout.records import Rollout, Sampled, SourceScores, make_rollout
from rlhf.training import loop
from rlhf.workspace import Workspace


def rollout_of(
    responses: Sequence[list[int]], references: Sequence[str | None] | None = None
) -> Rollout:
    prompts = prompts_of([[2, 9 + row] for row in range(len(responses))], references=references)
    sampled = Sampled(list(responses), [[0.0] * len(response) for response in responses])
    return make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))


def rewards_of(workspace: Workspace, *rewards: str | Mapping[str, Any]) -> RewardSum:
    settings = tiny_settings({"ppo.rewards": list(rewards)})
    models = Models(make_engine(settings.engine), None)
    return make_rewards(RewardContext(settings, workspace, models, tiny_tokenizer()))


def scores_of(workspace: Workspace, reward: str, rollout: Rollout) -> list[float]:
    (source,) = rewards_of(workspace, reward).read(rollout).values()
    assert source.scores.dtype == torch.float32
    scores: list[float] = source.scores.tolist()
    return scores


def with_references(workspace: Workspace, reference: str | None = "w7") -> None:
    """Give every second prompt a reference answer."""
    rows = read_table(workspace, "prompts").to_dict("records")
    for row in rows[::2]:
        row["reference"] = reference
    write_table(workspace.prepared, "prompts", rows)


# -- ends and lengths ---------------------------------------------------------------------------


def test_a_response_without_its_end_token_pays(prepared: Workspace) -> None:
    rollout = rollout_of([[7, EOS], [7, 8], [EOS]])
    assert scores_of(prepared, "missing-end", rollout) == [0.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0.0), (6, 0.0), (7, -0.25), (8, -0.5), (9, -0.75), (10, -1.0), (11, -1.0), (99, -1.0)],
)
def test_the_soft_penalty_of_length(length: int, expected: float) -> None:
    """Eq. 13 with a limit of 10 and a buffer of 4."""
    assert overlong_penalty(length, 10, 4) == expected


def test_a_penalty_over_all_of_the_length() -> None:
    assert [overlong_penalty(length, 4, 4) for length in (0, 1, 4)] == [0.0, -0.25, -1.0]


def test_length_is_in_tokens_with_the_end(prepared: Workspace) -> None:
    rollout = rollout_of([[7, EOS], [7, 8, EOS], [7, 8, 9, 10], [7] * 6])
    assert scores_of(prepared, "overlong:4:2", rollout) == [0.0, -0.5, -1.0, -1.0]


# -- repetition ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "n", "expected"),
    [
        ([5, 6, 5, 6, 5], 2, 0.5),  # 56 65 56 65: two of four
        ([5, 5, 5, 5], 1, 0.75),
        ([5, 6, 7], 2, 0.0),
        ([5, 5], 3, 0.0),
        ([], 1, 0.0),
    ],
)
def test_the_share_of_what_stood_there_before(ids: list[int], n: int, expected: float) -> None:
    assert repeated_share(ids, n) == expected


def test_repetition_is_taken_off(prepared: Workspace) -> None:
    rollout = rollout_of([[5, 6, 5, 6, 5], [5, 6, 7, EOS]])
    assert scores_of(prepared, "repetition:2", rollout) == [-0.5, 0.0]


# -- format -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("good.*", [1.0, 0.0, 1.0]),
        (".*(w7|w9)", [1.0, 1.0, 0.0]),
        # the whole of it
        ("good", [0.0, 0.0, 1.0]),
        # a colon is no end of the address
        ("(?:good )?w7|w8 w9", [1.0, 1.0, 0.0]),
    ],
)
def test_the_expression_must_match_the_whole_response(
    prepared: Workspace, pattern: str, expected: list[float]
) -> None:
    rollout = rollout_of([[GOOD, 7, EOS], [8, 9], [GOOD, EOS]])
    assert scores_of(prepared, f"format:{pattern}", rollout) == expected


# -- the right answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "marker", "expected"),
    [
        ("First 3.\nThen 4.\n\n7 \n", "", "7"),
        ("", "", None),
        ("  \n ", "", None),
        ("3 + 4 = 7\n#### 7", "####", "7"),
        ("#### 6\nno: #### 7\nindeed", "####", "7"),
        ("the answer is 7", "####", None),
        ("cut off ####", "####", None),
        ("####\n7", "####", "7"),
        ("Answer: B", "Answer:", "B"),
        (r"so \boxed{7}.", "boxed", "7"),
        (r"\boxed{1} or \boxed{\frac{1}{2}} it is", "boxed", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2", "boxed", None),
        ("7", "boxed", None),
    ],
)
def test_the_answer_in_a_text(text: str, marker: str, expected: str | None) -> None:
    assert answer_in(text, marker) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        (" -3.50 ", Fraction(-7, 2)),
        ("+.5", Fraction(1, 2)),
        ("5.", 5),
        ("1,234,567", 1234567),
        ("12,34", None),
        ("1/2", Fraction(1, 2)),
        ("1/0", None),
        ("2e3", 2000),
        ("2e99999999999", None),
        ("$1,000", 1000),
        ("-$5", -5),
        ("- 5", -5),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("1 / 2", Fraction(1, 2)),
        ("1 1/0", None),
        ("1 2", None),
        ("12 34", None),
        ("1$2", None),
        ("\N{MINUS SIGN}4", -4),
        ("9" * 5000, None),
        ("e3", None),
        (".", None),
        ("-", None),
        ("", None),
        ("seven", None),
        ("nan", None),
        ("inf", None),
        ("\N{SUPERSCRIPT TWO}", None),
    ],
)
def test_what_is_a_number(text: str, expected: object) -> None:
    assert number_of(text) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("7", "7.0", True),
        ("0.5", "1/2", True),
        ("1,000", "1000", True),
        ("7.", "7", True),
        ("0.3", "0.30000000000000001", False),
        ("7 apples", "7", False),
        ("Paris", "Paris.", True),
        ("paris", "Paris", False),
        ("", "7", False),
    ],
)
def test_numbers_are_compared_as_numbers_and_words_letter_by_letter(
    answer: str, reference: str, expected: bool
) -> None:
    assert same_answer(answer, reference) is expected


def test_a_right_answer_is_paid_and_one_without_reference_is_a_failure(
    workspace: Workspace,
) -> None:
    with_references(workspace)
    rewards = rewards_of(workspace, "exact", {"reward": "exact:w9", "weight": 0.5})
    responses = [[7, EOS], [8, EOS], [7, EOS], [8, 9, 7]]
    rollout = rollout_of(responses, references=["w7", "w7", None, "w5 w9 w7"])
    read = rewards.read(rollout)
    whole, marked = read["exact"], read["exact_2"]
    assert isinstance(whole, SourceScores)
    assert whole.scores.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert failed(whole) == [False, False, True, False]
    # a reference with the marker is read as the response is
    assert marked.scores.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert rewards.total(read).tolist() == [1.0, 0.0, 0.0, 0.5]


def failed(source: SourceScores) -> list[bool]:
    assert isinstance(source.failed, Tensor)
    rows: list[bool] = source.failed.tolist()
    return rows


def test_a_table_without_references_is_refused_at_once(prepared: Workspace) -> None:
    with pytest.raises(DataError, match=r"prompts\.parquet: reward exact .* key `reference`"):
        rewards_of(prepared, "exact")


def test_a_run_on_rules_alone_counts_what_it_could_not_judge(workspace: Workspace) -> None:
    """Half of the prompts have a reference; no reward model is read."""
    with_references(workspace)
    changes = {"ppo.rewards": ["exact", "missing-end"], "ppo.critic.initial": "sft"}
    (workspace.model("reward") / "scalar_head.safetensors").unlink()
    loop.train(tiny_settings({**changes, "ppo.iterations": 2}), workspace)
    first, *_, last = numbers(workspace.steps("ppo"))
    assert 0 < first["reward_exact_failures"] < 1
    assert last["validation_reward_exact_failures"] == 0.5
    assert first["reward_missing_end"] == pytest.approx(first["finished"] - 1)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("overlong", "expected overlong:LENGTH:BUFFER in tokens"),
        ("overlong:64", "expected overlong:LENGTH:BUFFER in tokens"),
        ("overlong:64:0", "the buffer 0 must be from 1 to the length 64"),
        ("overlong:64:65", "the buffer 65 must be from 1 to the length 64"),
        ("overlong:-1:1", "expected overlong:LENGTH:BUFFER"),
        ("repetition", "expected repetition:N"),
        ("repetition:0", "expected repetition:N"),
        ("repetition:two", "expected repetition:N"),
        ("format:", "expected format:PATTERN"),
        ("format:(", "format: no regular expression: missing )"),
        (
            "format:a{99999999999999}",
            "format: no regular expression: the repetition number is too large",
        ),
        ("format:" + "(" * 10_000, "format: no regular expression: maximum recursion depth"),
        ("missing-end:2", "a weight is a key of its own"),
    ],
)
def test_what_a_rule_cannot_be_made_from_is_refused(address: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.rewards": [address]})
    assert "ppo.rewards.0: " in str(caught.value) and message in str(caught.value)
