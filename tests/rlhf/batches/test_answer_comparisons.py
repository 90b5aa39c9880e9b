import pytest
import torch
from torch import Tensor

from rlhf.batches.comparisons import Comparisons, compare, margins, ranked_right
from rlhf.batches.demonstrations import last_answer

PROMPTS = [[2, 9], [2, 11, 12, 13], [2]]
PREFERRED = [[5, 1], [6], [7, 8, 1]]
OTHERS = [[40, 41, 42, 1], [6], [7, 8]]


@pytest.fixture
def comparisons() -> Comparisons:
    return compare(PROMPTS, PREFERRED, OTHERS, pad_id=0, device=torch.device("cpu"))


def rows_of(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


def test_the_preferred_answer_stands_before_the_other(comparisons: Comparisons) -> None:
    batch = comparisons.batch
    assert len(comparisons) == 3
    answers = [[5, 1], [40, 41, 42, 1], [6], [6], [7, 8, 1], [7, 8]]
    assert rows_of(batch.input_ids, batch.target_mask) == answers
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    assert rows_of(batch.input_ids, batch.attention_mask) == whole


def test_what_is_the_same_weighs_nothing(comparisons: Comparisons) -> None:
    # one token less, the end token, is another answer
    assert comparisons.weights.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_split_keeps_both_answers_together(comparisons: Comparisons, size: int) -> None:
    parts = comparisons.split(size)
    assert len(parts) == -(-3 // size)
    rows = [rows_of(part.batch.input_ids, part.batch.attention_mask) for part in parts]
    whole = rows_of(comparisons.batch.input_ids, comparisons.batch.attention_mask)
    assert [row for part in rows for row in part] == whole
    assert [len(part.batch) for part in parts] == [2 * len(part) for part in parts]
    assert torch.equal(torch.cat([part.weights for part in parts]), comparisons.weights)


def test_margins_are_of_the_preferred_over_the_other() -> None:
    values = torch.tensor([1.0, 0.25, -2.0, 3.0])
    assert margins(values).tolist() == [0.75, -5.0]


# -- the last answer of a dialogue --------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "prompt", "answer"),
    [
        ([0, 0, 1, 1, 1], [10, 11], [12, 13, 14]),
        # of several answers the last one; the earlier are part of what it answers
        ([0, 1, 1, 0, 1], [10, 11, 12, 13], [14]),
        # what a template writes behind it belongs to neither
        ([0, 1, 0, 1, 0], [10, 11, 12], [13]),
    ],
)
def test_the_last_answer_is_the_demonstration(
    mask: list[int], prompt: list[int], answer: list[int]
) -> None:
    found = last_answer([10, 11, 12, 13, 14], [bool(value) for value in mask])
    assert found == (prompt, answer)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([False, False], "no token of it is an answer"),
        ([True, True], "nothing before its answer"),
        ([True, False], "nothing before its answer"),
    ],
)
def test_a_dialogue_without_one_is_told(mask: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        last_answer([10, 11], mask)


def test_answers_that_nothing_tells_apart_are_ranked_half_right() -> None:
    assert ranked_right(torch.tensor([0.2, 0.0, -3.0])).tolist() == [1.0, 0.5, 0.0]
