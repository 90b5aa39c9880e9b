"""Running mean and standard deviation of rewards (detail 5), merged batch by batch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

# sums a tensor over all processes
AllSum = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of everything seen so far."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """Unbiased standard deviation; 1 for fewer than two values, so dividing by it is harmless."""
        if self.count <= 1 or self.squares <= 0:
            return 1.0
        return (self.squares / (self.count - 1)) ** 0.5

    def as_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return asdict(self)


def merge(history: Moments, values: Tensor, all_sum: AllSum) -> Moments:
    """Take a batch into the history by Chan's parallel variance; gives the new history.

    `all_sum` sums over processes: the batch of all of them enters as one, so every process holds
    the same history.
    """
    values = values.double()
    size = torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device)
    sums = all_sum(torch.stack([size, values.sum()]))
    count, total = float(sums[0]), float(sums[1])
    mean = total / count
    squares = float(all_sum((values - mean).square().sum()))

    # Chan et al. 1979: both sides' deviations, and those of their means from the common one
    merged = history.count + count
    shift = mean - history.mean
    return Moments(
        count=merged,
        mean=history.mean + shift * count / merged,
        squares=history.squares + squares + shift * shift * history.count * count / merged,
    )
