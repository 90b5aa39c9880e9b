"""A prompt with its two answers as one sequence: the prompt, which both share, is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.batches.padding import Ids, TokenBatch, pad

_PADDING, _PROMPT, _CHOSEN, _REJECTED = range(4)


@dataclass(frozen=True)
class PairBatch:
    """Rows of prompt, chosen answer, rejected answer, right-padded; the rejected answer does not see the chosen one.

    tokens: the rows as they lie, T = longest prompt + chosen + rejected; the targets are the chosen answer's tokens
    parts: [B, T] int64, what each token belongs to
    position_ids: [B, T] int64; the rejected answer counts on from the prompt, as if it were alone
    last: [B, 2] int64, places of the last token of the chosen and of the rejected answer
    """

    tokens: TokenBatch
    parts: Tensor
    position_ids: Tensor
    last: Tensor

    @property
    def visible(self) -> Tensor:
        """[B, 1, T, T] bool: True where the token of the third axis sees that of the fourth."""
        seeing, seen = self.parts[:, :, None], self.parts[:, None, :]
        places = torch.arange(self.parts.shape[1], device=self.parts.device)
        before = places[None, :] <= places[:, None]
        return (((seen == _PROMPT) | (seen == seeing)) & before)[:, None]

    def to(self, device: torch.device | str) -> "PairBatch":
        """Move all tensors."""
        moved = (part.to(device) for part in (self.parts, self.position_ids, self.last))
        return PairBatch(self.tokens.to(device), *moved)


def pad_pairs(
    prompts: Sequence[Ids], chosen: Sequence[Ids], rejected: Sequence[Ids], pad_id: int
) -> PairBatch:
    """Join each prompt with both answers and pad to the longest row."""
    rows = list(zip(prompts, chosen, rejected, strict=True))
    tokens = pad(
        [[*p, *c, *r] for p, c, r in rows],
        [[False] * len(p) + [True] * len(c) + [False] * len(r) for p, c, r in rows],
        pad_id,
    )
    parts = torch.full_like(tokens.input_ids, _PADDING)
    positions = torch.zeros_like(tokens.input_ids)
    for row, (p, c, r) in enumerate(rows):
        joined = len(p) + len(c)
        parts[row, : len(p)] = _PROMPT
        parts[row, len(p) : joined] = _CHOSEN
        parts[row, joined : joined + len(r)] = _REJECTED
        positions[row, :joined] = torch.arange(joined)
        positions[row, joined : joined + len(r)] = torch.arange(len(p), len(p) + len(r))
    last = torch.tensor([[len(p) + len(c) - 1, len(p) + len(c) + len(r) - 1] for p, c, r in rows])
    return PairBatch(tokens, parts, positions, last)
