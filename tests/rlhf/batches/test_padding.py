import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batches.padding import TokenBatch, pad, pad_responses
from rlhf.batches.plan import Limits, epoch_plan, micro_batches, token_batches
from rlhf.engine import share

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=150)


def padded(items: list[int], lengths: list[int]) -> int:
    return len(items) * max(lengths[item] for item in items)


# -- padding ------------------------------------------------------------------------------------------------------------


def test_pad_by_hand() -> None:
    batch = pad([[5, 6, 7], [8]], [[True, False, True], [True]], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.target_mask.tolist() == [
        [False, False, True],
        [False] * 3,
    ]  # nothing predicts the first token
    assert batch.last_positions.tolist() == [2, 0]


def test_an_end_of_turn_that_equals_the_pad_stays_a_token() -> None:
    batch = pad_responses([[5]], [[6, 0]], pad_id=0)
    assert batch.attention_mask.tolist() == [[True, True, True]]
    assert batch.target_mask.tolist() == [[False, True, True]]


def test_rows_cut_off_the_padding_that_nobody_needs() -> None:
    batch = pad_responses([[5, 6], [7], [8]], [[1, 2, 3], [4], [9, 9]], pad_id=0)
    part = batch.rows(slice(1, 3))
    assert part.input_ids.tolist() == [[7, 4, 0], [8, 9, 9]]
    assert part.target_mask.tolist() == [[False, True, False], [False, True, True]]
    assert isinstance(part, TokenBatch) and torch.equal(
        batch.rows(slice(None)).input_ids, batch.input_ids
    )


# -- which sequences share a batch --------------------------------------------------------------------------------------


@given(LENGTHS, st.integers(1, 400), st.integers(0, 99))
def test_every_item_exactly_once_within_the_bound(
    lengths: list[int], tokens: int, seed: int
) -> None:
    batches = token_batches(lengths, Limits(tokens), seed)
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    assert all(padded(batch, lengths) <= tokens or len(batch) == 1 for batch in batches)


@given(LENGTHS, st.integers(1, 2000), st.integers(0, 99))
def test_between_four_and_some_pairs(lengths: list[int], tokens: int, seed: int) -> None:
    limits = Limits(tokens, min_items=4, max_items=16)
    batches = token_batches(lengths, limits, seed)
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        assert min(4, len(lengths)) <= len(batch) <= 16
        # above the bound only where four items, or four and what was left below four, do not fit
        assert padded(batch, lengths) <= tokens or len(batch) <= 7


def test_bounds_of_the_paper() -> None:
    short, long = [4] * 5000, [3000] * 50
    sizes = [len(batch) for batch in token_batches(short, Limits(2048, 4, 128), 1)]
    assert max(sizes) == 128 and min(sizes) >= 4
    assert {len(batch) for batch in token_batches(long, Limits(2048, 4, 128), 1)} <= {4, 5, 6, 7}


def test_similar_lengths_share_a_batch() -> None:
    lengths = torch.randint(1, 200, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = token_batches(lengths, Limits(2000), 1)
    assert sum(padded(batch, lengths) for batch in batches) < 1.12 * sum(lengths)
    means = [sum(lengths[item] for item in batch) / len(batch) for batch in batches]
    assert means != sorted(means)  # and the batches come in no order of length


@given(LENGTHS, st.integers(1, 400))
def test_the_seed_and_the_names_decide(lengths: list[int], tokens: int) -> None:
    assert token_batches(lengths, Limits(tokens), 1, "sft") == token_batches(
        lengths, Limits(tokens), 1, "sft"
    )
    many = list(range(1, 90))
    assert token_batches(many, Limits(200), 1, "sft") != token_batches(many, Limits(200), 2, "sft")
    assert token_batches(many, Limits(200), 1, "sft") != token_batches(
        many, Limits(200), 1, "reward"
    )


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1.0, 10), (2.0, 20), (0.5, 5), (1.3, 13), (0.001, 1)]
)
def test_epochs_and_their_fractions(epochs: float, expected: int) -> None:
    plan = epoch_plan([10] * 40, Limits(40), epochs, 1)
    assert len(plan) == expected
    assert sorted(item for batch in plan[:10] for item in batch)[:4] is not None
    if epochs >= 1:
        assert sorted(item for batch in plan[:10] for item in batch) == list(range(40))
    if epochs == 2.0:
        assert plan[:10] != plan[10:] and sorted(
            item for batch in plan[10:] for item in batch
        ) == list(range(40))


@given(LENGTHS, st.integers(1, 400))
def test_micro_batches_split_a_batch(lengths: list[int], tokens: int) -> None:
    items = list(range(0, len(lengths), 2))
    parts = micro_batches(items, lengths, tokens)
    assert sorted(item for part in parts for item in part) == items
    assert all(padded(part, lengths) <= tokens or len(part) == 1 for part in parts)
    assert max(lengths[item] for item in parts[0]) == max(
        lengths[item] for item in items
    )  # memory shows at once


@given(LENGTHS, st.integers(1, 400), st.integers(1, 5))
def test_processes_share_the_micro_batches(lengths: list[int], tokens: int, processes: int) -> None:
    parts = micro_batches(range(len(lengths)), lengths, tokens)
    shares = [share(parts, rank, processes) for rank in range(processes)]
    assert len({len(part) for part in shares}) == 1  # equally many on every process
    counted = sorted(
        item for part in shares for items, weight in part for item in items if weight == 1
    )
    assert counted == list(range(len(lengths)))
    assert all(weight in (0, 1) for part in shares for _, weight in part)
