"""Step metrics: sums and weights gathered while losses are computed, averaged once at the end."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Tally:
    """Sums and weights of step metrics, gathered while losses are computed, averaged at the end."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, weight: float = 1.0, /, **values: Tensor) -> None:
        """Add the values of some tokens or rows, any shape, each element with `weight`.

        Weight 0 is for what a process repeats only to keep step with the others: all must hold the
        same keys.
        """
        for key, value in values.items():
            # in float64, so that the order of the parts shows in no digit
            total = weight * value.detach().double().sum()
            self.sums[key] = self.sums[key] + total if key in self.sums else total
            self.weights[key] = self.weights.get(key, 0.0) + weight * value.numel()

    def peak(self, **values: float) -> None:
        """Keep the largest value seen in this process."""
        for key, value in values.items():
            self.peaks[key] = max(value, self.peaks.get(key, value))

    def absorb(self, other: "Tally") -> None:
        """Take another tally's sums and peaks into this one."""
        for key, total in other.sums.items():
            self.sums[key] = self.sums[key] + total if key in self.sums else total
            self.weights[key] = self.weights.get(key, 0.0) + other.weights[key]
        self.peak(**other.peaks)

    def means(self, all_sum: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Weighted means over all processes, and the peaks of this one."""
        keys = sorted(self.sums)
        if not keys:
            return dict(self.peaks)
        stacked = torch.stack(
            [
                torch.stack([self.sums[k], torch.as_tensor(self.weights[k]).to(self.sums[k])])
                for k in keys
            ]
        )
        summed = all_sum(stacked)
        return {
            key: float(total / weight) for key, (total, weight) in zip(keys, summed, strict=True)
        } | self.peaks
