"""The rewards of a policy as weighted sources: their sum, their histories, their metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from neighbours import online_dpo
from tiny import (
    EOS,
    PAD,
    numbers,
    prompts_of,
    simulate_processes,
    tiny_settings,
    tiny_tokenizer,
    write_settings,
)
from torch import Tensor

from rlhf.algorithms.metrics import source_metrics
from rlhf.common.address import Address
from rlhf.common.errors import SettingsError
from rlhf.engine import make_engine
from rlhf.models.roles import Models
from rlhf.ppo.moments import AllSum
from rlhf.registry import REWARDS
from rlhf.rewards.base import NamedReward, RewardContext, RewardSum, make_rewards, source_names
from rlhf.rewards.records import ResponseRecord
from rlhf.rollout.records import Rollout, Sampled, SourceScores, make_rollout
from rlhf.settings import load_settings
from rlhf.settings.rewards import RewardSource
from rlhf.training import loop
from rlhf.workspace import Workspace


class Length:
    """`length:2`: two for each token of the response."""

    score_std = 1.2

    def __init__(self, context: RewardContext, detail: str) -> None:
        self.weight = float(detail)

    def scores(self, rollout: Rollout) -> Tensor:
        return self.weight * rollout.lengths.float()


class Given:
    """Scores that a test gives, one list after the other; None is what a reward cannot tell."""

    score_std = 2.0

    def __init__(self, *scores: list[float | None]) -> None:
        self.left = list(scores)

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        return self.left.pop(0)


def given_sum(scores: Mapping[str, Tensor]) -> RewardSum:
    plain = RewardSource.model_validate("length:1")
    sources = [NamedReward(name, Given(value.tolist()), plain) for name, value in scores.items()]
    return RewardSum(sources, tiny_tokenizer())


@pytest.fixture(autouse=True)
def length_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "length", f"{__name__}:Length")


@pytest.fixture
def rollout() -> Rollout:
    prompts = prompts_of([[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41]])
    responses = [[12, 13, 14, EOS], [15, EOS], [16]]
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    return make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))


def sum_of(workspace: Workspace, *rewards: str | Mapping[str, Any]) -> RewardSum:
    settings = tiny_settings({"ppo.rewards": list(rewards)})
    models = Models(make_engine(settings.engine), None)
    return make_rewards(RewardContext(settings, workspace, models, tiny_tokenizer()))


def total_of(rewards: RewardSum, rollout: Rollout) -> Tensor:
    return rewards.total(rewards.read(rollout))


def test_a_sum_changes_none_of_its_parts(rollout: Rollout) -> None:
    scores = torch.tensor([1.0, 2.0, 3.0])
    rewards = given_sum({"one": scores, "two": scores, "three": scores})
    assert total_of(rewards, rollout).tolist() == [3.0, 6.0, 9.0]
    assert scores.tolist() == [1.0, 2.0, 3.0]


# -- weights ------------------------------------------------------------------------------------


def test_scores_are_weighted(prepared: Workspace, rollout: Rollout) -> None:
    rewards = sum_of(prepared, {"reward": "model:reward", "weight": 0.5}, "length:2")
    scores = total_of(sum_of(prepared, "model:reward"), rollout)
    expected = 0.5 * scores + 2.0 * rollout.lengths
    assert torch.equal(total_of(rewards, rollout), expected)
    # of 0.5 x 0.5 and 1.2
    assert rewards.score_std == pytest.approx(math.hypot(0.25, 1.2))


def test_a_negative_weight_is_a_penalty(prepared: Workspace, rollout: Rollout) -> None:
    rewards = sum_of(prepared, {"reward": "length:1", "weight": -3})
    assert total_of(rewards, rollout).tolist() == [-12.0, -6.0, -3.0]
    assert rewards.score_std == pytest.approx(3.6)


def test_the_unit_of_a_source_can_be_told(prepared: Workspace) -> None:
    assert sum_of(prepared, {"reward": "length:1", "score_std": 7.0}).score_std == 7.0


def test_a_plain_mapping_is_its_address(prepared: Workspace) -> None:
    """So nothing is run again for another way to write the same."""
    mapping = tiny_settings({"ppo.rewards": [{"reward": "model:reward", "weight": 1}]})
    assert mapping.model_dump(mode="json") == tiny_settings().model_dump(mode="json")
    assert mapping.ppo.model_dump(mode="json")["rewards"] == ["model:reward"]


def test_settings_with_weights_are_read_as_they_were_written(workspace: Workspace) -> None:
    """Workers of a run get them as JSON."""
    rewards = ["length:1", {"reward": "model:reward", "weight": 0.5, "normalise": "running"}]
    settings = tiny_settings({"ppo.rewards": rewards})
    write_settings(workspace, settings)
    assert load_settings(workspace.params) == settings


# -- each source in its own history -------------------------------------------------------------


def normalised_sum(*scores: list[float | None], weight: float = 1.0) -> RewardSum:
    settings = RewardSource(reward="length:1", weight=weight, normalise="running")
    return RewardSum([NamedReward("given", Given(*scores), settings)], tiny_tokenizer())


def same(value: Tensor) -> Tensor:
    return value


def test_a_source_is_normalised_by_all_that_it_said(rollout: Rollout) -> None:
    rewards = normalised_sum([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], weight=10.0)
    first, histories = rewards.total_by_history(rewards.read(rollout), {}, same)
    assert first.tolist() == pytest.approx([-10.0, 0.0, 10.0])
    # mean 3.5, squared deviations 17.5 over 5
    second, histories = rewards.total_by_history(rewards.read(rollout), histories, same)
    std = math.sqrt(3.5)
    assert second.tolist() == pytest.approx([5.0 / std, 15.0 / std, 25.0 / std])
    assert histories["given"].count == 6
    assert rewards.score_std == 10.0


def test_what_a_source_cannot_tell_is_paid_the_mean_and_stays_out_of_its_history(
    rollout: Rollout,
) -> None:
    rewards = normalised_sum([1.0, None, 3.0], [None, None, None])
    total, histories = rewards.total_by_history(rewards.read(rollout), {}, same)
    assert total.tolist() == pytest.approx([-1 / math.sqrt(2), 0.0, 1 / math.sqrt(2)])
    assert (histories["given"].count, histories["given"].mean) == (2, 2.0)
    total, after = rewards.total_by_history(rewards.read(rollout), histories, same)
    assert total.tolist() == [0.0, 0.0, 0.0] and after == histories


def test_a_validation_measures_by_what_does_not_move(rollout: Rollout) -> None:
    rewards = normalised_sum([1.0, 2.0, 4.0], weight=3.0)
    # in units of 2.0, what `Given` says of itself
    assert total_of(rewards, rollout).tolist() == [1.5, 3.0, 6.0]


# -- metrics of each source ---------------------------------------------------------------------


def test_each_source_has_mean_spread_and_failures(prepared: Workspace, rollout: Rollout) -> None:
    sources = [
        sum_of(prepared, "length:2").sources[0],
        NamedReward("given", Given([1.0, None, 4.0]), RewardSource(reward="length:1", weight=9.0)),
    ]
    read = RewardSum(sources, tiny_tokenizer()).read(rollout)
    assert source_metrics(read, same) == pytest.approx(
        {
            # of 8, 4 and 2
            "reward_length": 14 / 3,
            "reward_length_std": math.sqrt(56 / 9),
            # as it comes, not weighted
            "reward_given": 2.5,
            "reward_given_std": 1.5,
            "reward_given_failures": 1 / 3,
        }
    )


def test_processes_share_one_mean_and_spread() -> None:
    parts = [[1.0, 2.0], [6.0]]

    def work(rank: int, all_sum: AllSum) -> dict[str, float]:
        scores = torch.tensor(parts[rank])
        failed = torch.zeros(len(scores), dtype=torch.bool)
        return source_metrics({"given": SourceScores(scores, failed)}, all_sum)

    one, two = simulate_processes(2, work)
    assert one == two
    assert one["reward_given"] == pytest.approx(3.0)
    assert one["reward_given_std"] == pytest.approx(math.sqrt(14 / 3))


def test_a_source_that_could_tell_of_nothing_has_no_mean(rollout: Rollout) -> None:
    nothing = SourceScores(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    assert source_metrics({"given": nothing}, same) == {"reward_given_failures": 1.0}


def test_a_single_reward_that_can_always_tell_is_the_sum() -> None:
    assert source_metrics({"model": SourceScores(torch.ones(3))}, same) == {}


def test_sources_have_names_of_their_own() -> None:
    addresses = ["model:reward", "missing-end", "format:a", "format:b", "hf:models/my-rm/"]
    addresses += ["python:mine/sums.py:digits", "http:math"]
    names = source_names([Address.parse(text) for text in addresses])
    assert names == [
        *("model", "missing_end", "format", "format_2"),
        *("hf_my_rm", "python_digits", "http_math"),
    ]
    # one that is called as the second of another would be
    clash = source_names([Address.parse(text) for text in ("http:a-b", "http:a.b", "http:a_b_2")])
    assert clash == ["http_a_b", "http_a_b_2", "http_a_b_2_2"]


@pytest.mark.parametrize("changes", [{}, online_dpo()], ids=["ppo-max", "online-dpo"])
def test_a_run_logs_each_source(workspace: Workspace, changes: Mapping[str, Any]) -> None:
    rewards = ["model:reward", {"reward": "length:1", "weight": 0.1, "score_std": 3.0}]
    settings = tiny_settings({**changes, "ppo.rewards": rewards, "ppo.iterations": 1})
    loop.train(settings, workspace)
    first, last = numbers(workspace.steps("ppo"))[-2:]
    assert first["reward_length"] == pytest.approx(first["response_length"])
    assert first["reward"] == pytest.approx(
        first["reward_model"] + 0.1 * first["reward_length"], abs=1e-6
    )
    for row in (first, last):
        assert row["validation_reward"] == pytest.approx(
            row["validation_reward_model"] + 0.1 * row["validation_reward_length"], abs=1e-5
        )
        assert row["validation_reward_length"] == pytest.approx(row["validation_length"])
        assert row["validation_reward_model_std"] > 0


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"weight": 2}, "ppo.rewards.0.reward: missing"),
        ({"reward": "length:1", "wieght": 2}, "did you mean weight? known here: normalise, reward"),
        ({"reward": "length:1", "weight": 0}, "0 means nothing; leave the reward out"),
        ({"reward": "length:1", "weight": float("nan")}, "ppo.rewards.0.weight: must be a finite"),
        ({"reward": "length:1", "weight": True}, "ppo.rewards.0.weight: true and false mean"),
        (
            {"reward": "length:1", "normalise": "batch"},
            "ppo.rewards.0.normalise: must be 'running'",
        ),
        (3, "ppo.rewards.0: must be an address, or a mapping of `reward` and `weight`"),
    ],
)
def test_what_is_no_source_is_refused(source: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.rewards": [source]})
    assert message in str(caught.value)


def test_one_reward_with_two_weights_is_refused() -> None:
    rewards = ["length:1", {"reward": "length:1", "weight": 2}]
    with pytest.raises(SettingsError, match="rewards: at least one, and none twice"):
        tiny_settings({"ppo.rewards": rewards})


def test_two_draws_are_not_measured_by_two_histories() -> None:
    rewards = [{"reward": "length:1", "normalise": "running"}]
    with pytest.raises(SettingsError, match="length:1: algorithm online-dpo keeps no history"):
        tiny_settings({**online_dpo(), "ppo.rewards": rewards})
