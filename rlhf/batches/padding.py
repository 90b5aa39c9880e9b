"""Token sequences to padded tensors. Right padding everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences.

    input_ids: [B, T] int64, padding holds `pad_id`
    attention_mask: [B, T] bool, True on tokens that are there
    target_mask: [B, T] bool, True on tokens whose prediction counts (assistant tokens); never True at position 0
    """

    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Move all tensors."""
        return TokenBatch(
            self.input_ids.to(device), self.attention_mask.to(device), self.target_mask.to(device)
        )

    @property
    def last_positions(self) -> Tensor:
        """Index of each sequence's last token, [B] int64."""
        return self.attention_mask.sum(dim=1) - 1

    def rows(self, index: slice) -> "TokenBatch":
        """Some of the rows, with the padding that no row needs cut off."""
        mask = self.attention_mask[index]
        width = int(mask.sum(dim=1).max())
        return TokenBatch(
            self.input_ids[index, :width], mask[:, :width], self.target_mask[index, :width]
        )


def pad(
    sequences: Sequence[Ids], target_masks: Sequence[Sequence[bool]], pad_id: int
) -> TokenBatch:
    """Pad to the longest sequence; a target at position 0 has nothing to be predicted from and is masked out."""
    width = max(len(ids) for ids in sequences)
    input_ids = torch.full((len(sequences), width), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(sequences), width), dtype=torch.bool)
    target = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, (ids, mask) in enumerate(zip(sequences, target_masks, strict=True)):
        input_ids[row, : len(ids)] = torch.as_tensor(list(ids))
        attention[row, : len(ids)] = True
        target[row, : len(ids)] = torch.as_tensor(list(mask), dtype=torch.bool)
    target[:, 0] = False
    return TokenBatch(input_ids, attention, target)


def pad_responses(prompts: Sequence[Ids], responses: Sequence[Ids], pad_id: int) -> TokenBatch:
    """Join each prompt with its response and pad; the targets are the response tokens."""
    joined = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    masks = [[False] * len(p) + [True] * len(r) for p, r in zip(prompts, responses, strict=True)]
    return pad(joined, masks, pad_id)


def pad_width(values: Tensor, width: int) -> Tensor:
    """Widen [B, t, H] to [B, width, H] with zeros on the right."""
    return torch.nn.functional.pad(values, (0, 0, 0, width - values.shape[1]))
