"""Answers in steps as one padded tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf.batches.padding import Ids, TokenBatch, pad_responses


@dataclass(frozen=True)
class SolutionBatch:
    """Prompts with answers in steps, S of them in all.

    tokens: [B, T] prompt and response right-padded
    ends: [B, T] bool, True at the last token of each step
    labels: [S] float32 of the steps, row by row, from 0 to 1; NaN for a step without a label
    """

    tokens: TokenBatch
    ends: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> "SolutionBatch":
        """Move all tensors."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            ends=self.ends.to(device),
            labels=self.labels.to(device),
        )


def pad_solutions(
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    step_ends: Sequence[Ids],
    labels: Sequence[Sequence[float]],
    pad_id: int,
) -> SolutionBatch:
    """Pad to the longest of the rows.

    step_ends: positions in each response, rising; labels: one for each of these
    """
    tokens = pad_responses(prompts, responses, pad_id)
    ends = torch.zeros_like(tokens.attention_mask)
    for row, (prompt, places) in enumerate(zip(prompts, step_ends, strict=True)):
        ends[row, len(prompt) + torch.as_tensor(list(places), dtype=torch.int64)] = True
    flat = [label for row in labels for label in row]
    return SolutionBatch(tokens, ends, torch.tensor(flat, dtype=torch.float32))
