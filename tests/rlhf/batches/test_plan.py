import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batches.plan import Limits, epoch_plan, micro_batches, token_batches
from rlhf.engine import share

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=150)


def padded(items: list[int], lengths: list[int]) -> int:
    """Tokens of a batch, padding included."""
    return len(items) * max(lengths[item] for item in items)


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
        # above the bound only where four items do not fit, or four and what was left below four
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
    # and the batches come in no order of length
    means = [sum(lengths[item] for item in batch) / len(batch) for batch in batches]
    assert means != sorted(means)


@given(LENGTHS, st.integers(1, 400))
def test_the_seed_and_the_names_decide(lengths: list[int], tokens: int) -> None:
    limits = Limits(tokens)
    once, again = (token_batches(lengths, limits, 1, "sft") for _ in range(2))
    assert once == again


def test_other_seeds_and_names_give_other_batches() -> None:
    many, limits = list(range(1, 90)), Limits(200)
    batches = token_batches(many, limits, 1, "sft")
    assert batches != token_batches(many, limits, 2, "sft")
    assert batches != token_batches(many, limits, 1, "reward")


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1.0, 10), (2.0, 20), (0.5, 5), (1.3, 13), (0.001, 1)]
)
def test_epochs_and_their_fractions(epochs: float, expected: int) -> None:
    assert len(epoch_plan([10] * 40, Limits(40), epochs, 1)) == expected


def test_every_epoch_has_every_item_in_batches_of_its_own() -> None:
    plan = epoch_plan([10] * 40, Limits(40), 2.0, 1)
    first, second = plan[:10], plan[10:]
    for epoch in (first, second):
        assert sorted(item for batch in epoch for item in batch) == list(range(40))
    assert first != second
    # a fraction is the beginning of its epoch
    assert epoch_plan([10] * 40, Limits(40), 1.3, 1) == plan[:13]


@given(LENGTHS, st.integers(1, 400))
def test_micro_batches_split_a_batch(lengths: list[int], tokens: int) -> None:
    items = list(range(0, len(lengths), 2))
    parts = micro_batches(items, lengths, tokens)
    assert sorted(item for part in parts for item in part) == items
    assert all(padded(part, lengths) <= tokens or len(part) == 1 for part in parts)
    # the longest come first: what they need of memory shows at once
    longest = max(lengths[item] for item in items)
    assert max(lengths[item] for item in parts[0]) == longest


@given(LENGTHS, st.integers(1, 400), st.integers(1, 5))
def test_processes_share_the_micro_batches(lengths: list[int], tokens: int, processes: int) -> None:
    parts = micro_batches(range(len(lengths)), lengths, tokens)
    shares = [share(parts, rank, processes) for rank in range(processes)]
    # equally many on every process
    assert len({len(part) for part in shares}) == 1
    weighted = [entry for part in shares for entry in part]
    assert all(weight in (0, 1) for _, weight in weighted)
    counted = [item for items, weight in weighted if weight == 1 for item in items]
    assert sorted(counted) == list(range(len(lengths)))
