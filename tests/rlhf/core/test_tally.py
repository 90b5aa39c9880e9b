from collections.abc import Callable

import pytest
import torch
from given import alone
from tiny import simulate_processes
from torch import Tensor

from rlhf.core.tally import Tally


def test_a_mean_counts_every_element_alike() -> None:
    tally = Tally()
    tally.add(loss=torch.tensor([1.0, 2.0, 3.0]))
    tally.add(loss=torch.tensor([[10.0]]), other=torch.tensor(5.0))
    # 16 / 4, no mean of means
    assert tally.means(alone) == {"loss": 4.0, "other": 5.0}


def test_peaks_are_kept() -> None:
    tally = Tally()
    tally.peak(ratio=0.5)
    tally.peak(ratio=0.2)
    assert tally.means(alone) == {"ratio": 0.5}


def test_absorbed_tallies_count_as_if_added_here() -> None:
    first, second = Tally(), Tally()
    first.add(loss=torch.tensor([1.0]))
    second.add(loss=torch.tensor([2.0, 6.0]), other=torch.tensor([1.0]))
    second.peak(ratio=3.0)
    first.absorb(second)
    assert first.means(alone) == {"loss": 3.0, "other": 1.0, "ratio": 3.0}


def test_gradients_are_not_held() -> None:
    tally = Tally()
    tally.add(loss=torch.ones(2, requires_grad=True) * 3)
    assert not tally.sums["loss"].requires_grad


@pytest.mark.parametrize("counts", [[3, 2], [4, 0, 1]])
def test_processes_give_the_mean_of_all_even_if_one_only_keeps_step(counts: list[int]) -> None:
    """A process without work repeats a micro-batch with weight 0: all meet in the reduction."""

    def work(rank: int, all_sum: Callable[[Tensor], Tensor]) -> dict[str, float]:
        tally = Tally()
        for number in range(counts[rank]):
            tally.add(1.0, loss=torch.tensor([float(10 * rank + number)]))
        if not counts[rank]:
            tally.add(0.0, loss=torch.tensor([99.0]))
        return tally.means(all_sum)

    values = [10 * rank + number for rank, count in enumerate(counts) for number in range(count)]
    expected = {"loss": pytest.approx(sum(values) / len(values))}
    assert simulate_processes(len(counts), work) == [expected] * len(counts)
