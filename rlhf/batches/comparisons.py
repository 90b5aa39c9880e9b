"""Two answers to each prompt, the preferred one first, as rows that a model scores one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.batches.padding import Ids, TokenBatch, pad_responses


@dataclass(frozen=True)
class Comparisons:
    """C prompts with two answers each.

    batch: [2 C, T] preferred and other answer in turn; the targets are the answers' tokens
    weights: [C] float32, 0 where both answers are the same: nothing is said there
    """

    batch: TokenBatch
    weights: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def split(self, size: int) -> list["Comparisons"]:
        """The comparisons in their order, `size` at a time; no answer is parted from its other."""
        batches = self.batch.micro_batches(2 * size)
        rows = zip(batches, self.weights.split(size), strict=True)
        return [Comparisons(batch, weights) for batch, weights in rows]


def compare(
    prompts: Sequence[Ids],
    preferred: Sequence[Ids],
    others: Sequence[Ids],
    pad_id: int,
    device: torch.device,
) -> Comparisons:
    """Put the answers to each prompt side by side on `device`."""
    answers, weights = [], []
    for one, other in zip(preferred, others, strict=True):
        answers += [one, other]
        weights.append(float(list(one) != list(other)))
    twice = [prompt for prompt in prompts for _ in range(2)]
    batch = pad_responses(twice, answers, pad_id)
    return Comparisons(batch.to(device), torch.tensor(weights, device=device))


def margins(values: Tensor) -> Tensor:
    """What the preferred answers have more than the others, [C], of the rows' values [2 C]."""
    preferred, others = values.view(-1, 2).unbind(dim=1)
    return preferred - others


def ranked_right(above: Tensor) -> Tensor:
    """1 where the preferred answer is above the other by these margins, 0 where below, a half where neither."""
    return torch.heaviside(above, above.new_tensor(0.5))
