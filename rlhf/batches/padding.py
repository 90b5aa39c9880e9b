"""Token sequences to padded tensors. Right padding everywhere.

Shapes here and above: B rows, P prompt, R response, T = P + R, N target tokens of a batch, H hidden
width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences.

    input_ids: [B, T] int64, padding holds `pad_id`
    attention_mask: [B, T] bool, True on tokens that are there
    target_mask: [B, T] bool, True on tokens whose prediction counts (assistant tokens); never True
        at position 0
    trunk_states: [B, T, H] hidden states after the first `trunk_blocks` blocks, where the models
        that read the batch share those (`rlhf.models.roles`), else None
    """

    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor
    trunk_states: Tensor | None = None
    trunk_blocks: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def width(self) -> int:
        """T."""
        return self.input_ids.shape[1]

    @property
    def last_positions(self) -> Tensor:
        """Index of each sequence's last token, [B] int64."""
        return self.attention_mask.sum(dim=1) - 1

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Move all tensors."""
        trunk = None if self.trunk_states is None else self.trunk_states.to(device)
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            target_mask=self.target_mask.to(device),
            trunk_states=trunk,
        )

    def select(self, rows: slice | Tensor) -> "TokenBatch":
        """Some of the rows, by slice or by index [b] int64; padding that none of them needs is cut off."""
        # fewer columns, the same numbers
        mask = self.attention_mask[rows]
        width = int(mask.sum(dim=1).max())
        trunk = None
        if self.trunk_states is not None:
            # one memory layout, whatever was cut off
            trunk = self.trunk_states[rows, :width].contiguous()
        return replace(
            self,
            input_ids=self.input_ids[rows, :width],
            attention_mask=mask[:, :width],
            target_mask=self.target_mask[rows, :width],
            trunk_states=trunk,
        )

    def micro_batches(self, size: int) -> list["TokenBatch"]:
        """The rows in their order, `size` at a time."""
        starts = range(0, len(self), size)
        return [self.select(slice(start, start + size)) for start in starts]


@dataclass(frozen=True)
class Packing:
    """Rows end to end, without their padding: what is done to each token by itself costs nothing for it.

    places: [N] int64, where in [B * T] each token lies; rows: B; width: T
    """

    places: Tensor
    rows: int
    width: int

    @classmethod
    def of(cls, attention_mask: Tensor) -> "Packing":
        """The packing of rows with this mask, [B, T] bool."""
        rows, width = attention_mask.shape
        return cls(attention_mask.flatten().nonzero().squeeze(1), rows, width)

    def packed(self, values: Tensor) -> Tensor:
        """[B, T, ...] as [1, N, ...]."""
        return values.flatten(0, 1).index_select(0, self.places)[None]

    def padded(self, values: Tensor) -> Tensor:
        """[1, N, ...] as [B, T, ...], 0 where there is padding."""
        sizes = values.shape[2:]
        flat = values.new_zeros(self.rows * self.width, *sizes)
        return flat.index_copy(0, self.places, values[0]).view(self.rows, self.width, *sizes)


def pad(
    sequences: Sequence[Ids], target_masks: Sequence[Sequence[bool]], pad_id: int
) -> TokenBatch:
    """Pad to the longest sequence.

    A target at position 0 has nothing to be predicted from and is masked out.
    """
    shape = (len(sequences), max(len(ids) for ids in sequences))
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention = torch.zeros(shape, dtype=torch.bool)
    target = torch.zeros(shape, dtype=torch.bool)
    for row, (ids, mask) in enumerate(zip(sequences, target_masks, strict=True)):
        length = len(ids)
        input_ids[row, :length] = torch.as_tensor(list(ids))
        attention[row, :length] = True
        target[row, :length] = torch.as_tensor(list(mask), dtype=torch.bool)
    target[:, 0] = False
    return TokenBatch(input_ids, attention, target)


def pad_responses(prompts: Sequence[Ids], responses: Sequence[Ids], pad_id: int) -> TokenBatch:
    """Join each prompt with its response and pad; the targets are the response tokens."""
    rows = list(zip(prompts, responses, strict=True))
    joined = [[*prompt, *response] for prompt, response in rows]
    masks = [[False] * len(prompt) + [True] * len(response) for prompt, response in rows]
    return pad(joined, masks, pad_id)


def pad_width(values: Tensor, width: int) -> Tensor:
    """Widen [B, t, H] to [B, width, H] with zeros on the right."""
    return torch.nn.functional.pad(values, (0, 0, 0, width - values.shape[1]))
