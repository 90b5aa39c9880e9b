"""Demonstrations and pairs of an iteration: which rows, whose part, cut where responses are cut."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
import torch
from given import GivenSources
from slow_ppo import PROMPTS
from tiny import EOS, prompts_of, tiny_settings, tiny_tokenizer

from rlhf.algorithms.base import Context
from rlhf.algorithms.feedback import Feedback
from rlhf.batches.tables import read_rows_of
from rlhf.common.errors import DataError
from rlhf.engine.single import TorchEngine
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.settings.training import EngineSettings
from rlhf.workspace import Workspace


class OneOf(TorchEngine):
    """One of several processes that share the work."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(EngineSettings(threads=1))
        self.rank = rank
        self.world_size = world_size


def feedback_of(
    workspace: Workspace, changes: Mapping[str, Any] | None = None, rank: int = 0, of: int = 1
) -> Feedback:
    settings = tiny_settings(changes)
    return Feedback(Context(settings, workspace, OneOf(rank, of), tiny_tokenizer()))


def sources_with(**tables: pd.DataFrame) -> GivenSources:
    return GivenSources(nothing(), tables=tables)


def nothing() -> Rollout:
    sampled = Sampled([[EOS]], [[0.0]])
    return make_rollout(prompts_of(PROMPTS[:1]), sampled, EOS, 0, torch.device("cpu"))


@pytest.fixture
def sources(prepared: Workspace) -> GivenSources:
    names = ("sft", "preferences")
    return sources_with(**{name: read_rows_of(prepared, name, "train") for name in names})


# -- which rows ---------------------------------------------------------------------------------


def test_every_demonstration_has_its_turn_before_one_comes_again(
    prepared: Workspace, sources: GivenSources
) -> None:
    feedback = feedback_of(prepared)
    # 24 dialogues, 8 an iteration
    taken = [feedback.demonstrations(sources, iteration, 8) for iteration in range(6)]
    rows = [row for part in taken for row in part.prompts.table_rows]
    assert sorted(rows[:24]) == sorted(rows[24:]) == list(range(24))
    # in an order that is not the table's, and another each time
    assert rows[:24] != rows[24:] and rows[:24] != sorted(rows[:24])


def test_rows_are_known_by_the_iteration_alone(prepared: Workspace, sources: GivenSources) -> None:
    one, other = feedback_of(prepared), feedback_of(prepared)
    before = [one.demonstrations(sources, iteration, 8) for iteration in range(4)]
    # a run that resumes at iteration 3 has not seen those before
    assert other.demonstrations(sources, 3, 8) == before[3]
    pairs = [one.pairs(sources, iteration, 6) for iteration in range(4)]
    again = other.pairs(sources, 3, 6)
    assert torch.equal(again.batch.input_ids, pairs[3].batch.input_ids)
    assert not torch.equal(again.batch.input_ids[0], pairs[2].batch.input_ids[0])


def test_pairs_held_out_are_shared_and_each_counts_once(prepared: Workspace) -> None:
    rows = read_rows_of(prepared, "preferences", "validation")
    everything = feedback_of(prepared).held_out_pairs(5)
    assert everything.weights.tolist() == [1.0] * 5
    ids, masks = everything.batch.input_ids, everything.batch.target_mask
    answers = [row[mask].tolist() for row, mask in zip(ids, masks, strict=True)]
    assert answers[::2] == [list(answer) for answer in rows["chosen_ids"].head(5)]
    assert answers[1::2] == [list(answer) for answer in rows["rejected_ids"].head(5)]

    parts = [feedback_of(prepared, rank=rank, of=2).held_out_pairs(5) for rank in (0, 1)]
    # a forward pass more on one process would leave the other waiting
    assert [len(part) for part in parts] == [3, 3]
    assert [part.weights.tolist() for part in parts] == [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    assert len(feedback_of(prepared).held_out_pairs(1000)) == len(rows)


def test_demonstrations_and_pairs_have_orders_of_their_own(prepared: Workspace) -> None:
    """Though both tables are as long."""
    dialogues = read_rows_of(prepared, "sft", "train")
    pairs = read_rows_of(prepared, "preferences", "train")[: len(dialogues)]
    # told apart by their first token
    numbered = [[100 + place] for place in range(len(pairs))]
    sources = sources_with(sft=dialogues, preferences=pairs.assign(prompt_ids=numbered))
    feedback = feedback_of(prepared)
    rows = feedback.demonstrations(sources, 0, 24).prompts.table_rows
    found = feedback.pairs(sources, 0, 24).batch.input_ids[::2, 0] - 100
    assert sorted(found.tolist()) == sorted(rows) and found.tolist() != rows


def test_processes_share_the_rows_of_an_iteration(
    prepared: Workspace, sources: GivenSources
) -> None:
    undivided = feedback_of(prepared)
    parts = [feedback_of(prepared, rank=rank, of=2) for rank in range(2)]
    whole = undivided.demonstrations(sources, 2, 8)
    shares = [part.demonstrations(sources, 2, 8) for part in parts]
    assert [len(share.answers) for share in shares] == [4, 4]
    assert [row for share in shares for row in share.prompts.table_rows] == whole.prompts.table_rows
    # streams of responses are named by positions: the same however many processes there are
    assert [at for share in shares for at in share.prompts.positions] == whole.prompts.positions
    assert [answer for share in shares for answer in share.answers] == whole.answers

    pairs = [part.pairs(sources, 2, 6) for part in parts]
    weights = torch.cat([pair.weights for pair in pairs])
    assert torch.equal(weights, undivided.pairs(sources, 2, 6).weights) and len(weights) == 6


# -- what they hold -----------------------------------------------------------------------------


def dialogue(ids: list[int], mask: list[int], name: str = "row-7") -> pd.DataFrame:
    masks = [[bool(value) for value in mask]]
    columns = {"id": [name], "kind": ["helpful"], "input_ids": [ids], "loss_mask": masks}
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("limit", "answer", "finished", "cut"),
    [
        (4, [5, 6, 7, EOS], True, False),
        (9, [5, 6, 7, EOS], True, False),
        # without its end token, as a response that ran into the limit
        (3, [5, 6, 7], False, True),
        (1, [5], False, True),
    ],
)
def test_a_demonstration_is_cut_where_a_response_is(
    prepared: Workspace, limit: int, answer: list[int], finished: bool, cut: bool
) -> None:
    # a dialogue of two turns
    table = dialogue([2, 9, 8, EOS, 2, 11, 5, 6, 7, EOS], [0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    feedback = feedback_of(prepared, {"ppo.max_response_tokens": limit})
    found = feedback.demonstrations(sources_with(sft=table), 0, 1)
    assert found.prompts.ids == [[2, 9, 8, EOS, 2, 11]]
    assert (found.answers, found.finished, found.cut) == ([answer], [finished], [cut])
    columns = found.columns(torch.device("cpu"))
    assert {name: float(column) for name, column in columns.items()} == {
        "demonstration_length": len(answer),
        "demonstration_finished": finished,
        "demonstration_cut": cut,
    }


def test_the_limit_of_the_data_holds_where_the_stage_has_none(prepared: Workspace) -> None:
    limits = {"ppo.max_response_tokens": None, "data.max_response_tokens": 2}
    table = dialogue([2, 5, 6, EOS], [0, 1, 1, 1])
    found = feedback_of(prepared, limits).demonstrations(sources_with(sft=table), 0, 1)
    assert found.answers == [[5, 6]] and found.cut == [True]


def test_what_prepare_has_cut_has_no_end_token(prepared: Workspace) -> None:
    table = dialogue([2, 5, 6], [0, 1, 1])
    found = feedback_of(prepared).demonstrations(sources_with(sft=table), 0, 1)
    assert (found.finished, found.cut) == ([False], [False])


def test_a_demonstration_is_preferred_to_what_was_sampled(
    prepared: Workspace, sources: GivenSources
) -> None:
    feedback = feedback_of(prepared)
    found = feedback.demonstrations(sources, 0, 4)
    samples = [[40, EOS], found.answers[1], [41], [42, 43, EOS]]
    against = feedback.against(found, samples)
    assert against.weights.tolist() == [1.0, 0.0, 1.0, 1.0]
    batch = against.batch
    rows = [
        ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.target_mask, strict=True)
    ]
    assert rows[::2] == found.answers and rows[1::2] == samples


def test_pairs_are_those_of_the_table(prepared: Workspace, sources: GivenSources) -> None:
    """Whole, as the reward model's own stage reads them, whatever a response may have."""
    feedback = feedback_of(prepared, {"ppo.max_response_tokens": 1})
    batch = feedback.pairs(sources, 0, 48).batch
    rows = [
        ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.target_mask, strict=True)
    ]
    table = sources.rows("preferences")
    expected = [
        [ids.tolist() for ids in pair]
        for pair in zip(table["chosen_ids"], table["rejected_ids"], strict=True)
    ]
    found = [list(pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
    assert sorted(found) == sorted(expected)


def test_a_row_without_an_answer_is_named(prepared: Workspace) -> None:
    sources = sources_with(sft=dialogue([2, 5, 6], [0, 0, 0]))
    with pytest.raises(DataError, match=r"sft\.parquet: row row-7: no token of it is an answer"):
        feedback_of(prepared).demonstrations(sources, 0, 1)
