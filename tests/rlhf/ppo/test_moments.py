import math
from collections.abc import Callable

import pytest
import torch
from given import alone
from hypothesis import given
from hypothesis import strategies as st
from tiny import simulate_processes
from torch import Tensor

from rlhf.ppo.moments import Moments, merge

BATCHES = st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=6), min_size=1, max_size=5)


def history(batches: list[list[float]]) -> Moments:
    moments = Moments()
    for batch in batches:
        moments = merge(moments, torch.tensor(batch, dtype=torch.float64), alone)
    return moments


def test_by_hand() -> None:
    moments = history([[1.0, 2.0], [6.0]])
    assert moments.mean == pytest.approx(3.0)
    # unbiased
    assert moments.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert moments.count == 3


@given(BATCHES)
def test_merged_batches_have_the_moments_of_all_values_together(batches: list[list[float]]) -> None:
    together = torch.tensor([value for batch in batches for value in batch], dtype=torch.float64)
    moments = history(batches)
    assert moments.mean == pytest.approx(float(together.mean()), abs=1e-9)
    squares = float((together - together.mean()).square().sum())
    assert moments.squares == pytest.approx(squares, abs=1e-6)


@pytest.mark.parametrize("sizes", [[[3, 1], [2, 2]], [[1, 1, 1], [4, 2, 5], [0, 3, 0]]])
def test_processes_hold_the_history_of_one(sizes: list[list[int]]) -> None:
    """sizes[batch][process]: how many of a batch's rewards each process has; one may have none."""
    random = torch.Generator().manual_seed(0)
    shards = [[torch.randn(size, generator=random) * 3 + 5 for size in batch] for batch in sizes]

    def work(rank: int, all_sum: Callable[[Tensor], Tensor]) -> Moments:
        moments = Moments()
        for batch in shards:
            moments = merge(moments, batch[rank], all_sum)
        return moments

    found = simulate_processes(len(sizes[0]), work)
    together = history([torch.cat(batch).tolist() for batch in shards])
    for moments in found:
        assert moments == found[0]
        assert moments.as_dict() == pytest.approx(together.as_dict())


@pytest.mark.parametrize("batch", [[2.5], [4.0, 4.0, 4.0]])
def test_a_first_batch_without_spread_is_divided_by_one(batch: list[float]) -> None:
    moments = history([batch])
    assert moments.mean == batch[0]
    assert moments.std == 1.0


def test_large_means_lose_no_precision() -> None:
    assert history([[1e6 + 1, 1e6 + 2], [1e6 + 3]]).std == pytest.approx(1.0)


def test_survives_a_checkpoint() -> None:
    moments = history([[1.0, 2.0], [6.0]])
    assert Moments(**moments.as_dict()) == moments
