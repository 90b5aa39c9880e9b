"""A prompt with its two answers as one sequence: the prompt, which both share, is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.batches.padding import Ids, TokenBatch, pad

_PADDING, _PROMPT, _CHOSEN, _REJECTED = range(4)


@dataclass(frozen=True)
class PairBatch:
    """Rows of prompt, chosen answer, rejected answer, right-padded.

    The rejected answer does not see the chosen one.

    tokens: the rows as they lie, T = longest prompt + chosen + rejected; the targets are the tokens
        of the chosen answer
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
        seeing = self.parts[:, :, None]
        seen = self.parts[:, None, :]
        places = torch.arange(self.parts.shape[1], device=self.parts.device)
        before = places[None, :] <= places[:, None]
        prompt_or_same_answer = (seen == _PROMPT) | (seen == seeing)
        return (prompt_or_same_answer & before)[:, None]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one of its answers."""
        return int(self.position_ids.max()) + 1

    def own_rows(self) -> TokenBatch:
        """Each answer behind its prompt in a row of its own, [2B, longest]: first the chosen, then the rejected.

        The targets are the tokens of the answers.
        """
        ids = self.tokens.input_ids
        count = len(ids)
        shape = (2 * count, self.longest)
        # padding may hold any token that there is
        own = torch.full(shape, int(ids.min()), dtype=ids.dtype, device=ids.device)
        real = torch.zeros(shape, dtype=torch.bool, device=ids.device)
        target = torch.zeros_like(real)
        for number, answer in enumerate((_CHOSEN, _REJECTED)):
            is_answer = self.parts == answer
            rows, columns = ((self.parts == _PROMPT) | is_answer).nonzero(as_tuple=True)
            own_rows, own_columns = rows + number * count, self.position_ids[rows, columns]
            own[own_rows, own_columns] = ids[rows, columns]
            real[own_rows, own_columns] = True
            target[own_rows, own_columns] = is_answer[rows, columns]
        return TokenBatch(own, real, target)

    def places_in_own_rows(self) -> tuple[Tensor, Tensor]:
        """Where each token of a pair's row lies in `own_rows`: row and column, [B, T] int64 each."""
        count = len(self.parts)
        rows = torch.arange(count, device=self.parts.device)[:, None]
        return rows + count * (self.parts == _REJECTED), self.position_ids

    def to(self, device: torch.device | str) -> "PairBatch":
        """Move all tensors."""
        return PairBatch(
            tokens=self.tokens.to(device),
            parts=self.parts.to(device),
            position_ids=self.position_ids.to(device),
            last=self.last.to(device),
        )


def pad_pairs(
    prompts: Sequence[Ids], chosen: Sequence[Ids], rejected: Sequence[Ids], pad_id: int
) -> PairBatch:
    """Join each prompt with both answers and pad to the longest row."""
    rows = list(zip(prompts, chosen, rejected, strict=True))

    # 1. the tokens of a row, one after the other
    ids, is_target = [], []
    for p, c, r in rows:
        ids.append([*p, *c, *r])
        is_target.append([False] * len(p) + [True] * len(c) + [False] * len(r))
    tokens = pad(ids, is_target, pad_id)

    # 2. what each token belongs to, and where it stands in its dialogue
    parts = torch.full_like(tokens.input_ids, _PADDING)
    positions = torch.zeros_like(tokens.input_ids)
    last = []
    for row, (p, c, r) in enumerate(rows):
        joined = len(p) + len(c)
        end = joined + len(r)
        parts[row, : len(p)] = _PROMPT
        parts[row, len(p) : joined] = _CHOSEN
        parts[row, joined:end] = _REJECTED
        positions[row, :joined] = torch.arange(joined)
        positions[row, joined:end] = torch.arange(len(p), len(p) + len(r))
        last.append([joined - 1, end - 1])
    return PairBatch(tokens, parts, positions, torch.tensor(last))
