"""Proofs on the model itself, with random tokens, that what we read off it is what it says.

Some families pass every check of names and shapes and are wrong in silence: logits that are scaled
or capped, attention that does not go by position ids, caches that lose padding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.padding import Ids, pad_responses
from rlhf.batches.pairs import PairBatch, pad_pairs
from rlhf.common.errors import ModelError
from rlhf.core.reach import PAIR_ROWS, longest_text, window
from rlhf.models.attention import cpu_attention, gpu_attention
from rlhf.models.backbone import (
    hidden_states,
    next_token_states,
    pair_hidden_states,
    unembed,
)
from rlhf.rollout.cache import read_prompts

# tokens of prompt, first and second answer; several lengths, so that there is padding everywhere
_LENGTHS = ((5, 7, 11), (17, 3, 9), (1, 12, 4), (29, 14, 20))
# a window up to here is exceeded by one more row
_SHORT_WINDOW = 256
# largest difference, in standard deviations of what is compared; rounding of fp32 is a hundredth of it
_TOLERANCE = 2e-3
# whatever a family's code may raise on inputs that it was not written for
_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@torch.no_grad()
def prove(model: PreTrainedModel, seed: int = 0) -> bool:
    """Whether pairs of answers may lie in one row; where not, `pair_hidden_states` reads rows of their own.

    model: in float32. Raises ModelError with the reason where logits, padding or cached decoding
    are not what the model itself says of a text alone.
    """
    used = model.config._attn_implementation
    one_row = True
    # the stages read with one on a CPU and with the other on a GPU
    for attention in dict.fromkeys([cpu_attention(model.config), gpu_attention(model.config)]):
        if not _set_attention(model, attention):
            continue
        case = _Case(model, seed)
        case.check(
            "logits", "computes logits from its states in a way that is not known here", case.logits
        )
        case.check("padding", "says something else beside padding", case.padding)
        case.check("decoding", "says something else when it decodes with a cache", case.decoding)
        one_row = one_row and case.pairs_in_one_row()
    _set_attention(model, used)
    return one_row


def _set_attention(model: PreTrainedModel, name: str) -> bool:
    try:
        model.set_attn_implementation(name)
    # not every family has every implementation
    except (ValueError, ImportError):
        return False
    return True


class _Case:
    """Random prompts with two answers each, and the model's own logits of each text by itself."""

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        self.model = model
        random = torch.Generator().manual_seed(seed)
        count = getattr(model, "tokens_with_a_name", model.get_output_embeddings().weight.shape[0])
        lengths = _lengths(model)

        def draw(size: int) -> list[int]:
            return torch.randint(count, (size,), generator=random).tolist()

        self.prompts, self.first, self.second = (
            [draw(row[part]) for row in lengths] for part in range(3)
        )
        with self._errors_of("forward"):
            self.own_first = self._own(self.first)
            self.own_second = self._own(self.second)

    def _own(self, answers: Sequence[Ids]) -> list[Tensor]:
        rows = [[*prompt, *answer] for prompt, answer in zip(self.prompts, answers, strict=True)]
        return [
            self.model(input_ids=self._ids([row]), use_cache=False).logits[0].float()
            for row in rows
        ]

    def _ids(self, rows: Sequence[Ids]) -> Tensor:
        return torch.tensor([list(row) for row in rows], device=self.model.device)

    def check(self, name: str, problem: str, difference: Callable[[], float]) -> None:
        """Raises ModelError where the difference is more than rounding."""
        with self._errors_of(name):
            found = difference()
        # not a number is no proof
        if not found <= _TOLERANCE:
            kind = type(self.model).__name__
            raise ModelError(f"{name}: a {kind} {problem}: off by {found:.2g} standard deviations")

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            kind = type(self.model).__name__
            # some errors say nothing
            told = str(error) or type(error).__name__
            raise ModelError(f"{name}: a {kind} cannot be read as it must be: {told}") from error

    # -- what is proved ----------------------------------------------------------------------------

    def logits(self) -> float:
        """Of each text alone, from its hidden states."""
        worst = 0.0
        for prompt, answer, own in zip(self.prompts, self.first, self.own_first, strict=True):
            batch = pad_responses([prompt], [answer], 0).to(self.model.device)
            worst = _worst(worst, unembed(self.model, hidden_states(self.model, batch))[0], own)
        return worst

    def padding(self) -> float:
        """Of all texts in one batch, padded on the right with different tokens."""
        worst = 0.0
        for pad_id in (0, 1):
            batch = pad_responses(self.prompts, self.first, pad_id).to(self.model.device)
            found = unembed(self.model, hidden_states(self.model, batch))
            for row, own in enumerate(self.own_first):
                worst = _worst(worst, found[row, : len(own)], own)
        return worst

    def decoding(self) -> float:
        """Token by token behind prompts that are padded on the left; rows leave as answers end."""
        model, worst = self.model, 0.0
        ids, mask = _left_padded(self.prompts)
        ids, mask = ids.to(model.device), mask.to(model.device)
        room = max(len(answer) for answer in self.second)
        hidden, cache = read_prompts(model, ids, mask, room)
        rows = list(range(len(self.prompts)))
        for step in range(room):
            for place, row in enumerate(rows):
                own = self.own_second[row][len(self.prompts[row]) - 1 + step]
                worst = _worst(worst, unembed(model, hidden[place]), own)
            going = [place for place, row in enumerate(rows) if step + 1 < len(self.second[row])]
            if not going:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going, device=model.device)
                cache.batch_select_indices(kept)
                rows, mask = [rows[place] for place in going], mask[kept]
            new = self._ids([[self.second[row][step]] for row in rows])
            mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
            hidden = next_token_states(model, new, mask, cache)
        return worst

    def pairs_in_one_row(self) -> bool:
        """Whether each answer of a pair in one row is what it is in a row of its own.

        Raises ModelError where not even rows of their own are.
        """
        config = self.model.config
        batch = pad_pairs(self.prompts, self.first, self.second, 0).to(self.model.device)
        setattr(config, PAIR_ROWS, True)
        try:
            one_row = self._pairs(batch) <= _TOLERANCE
        except _ERRORS:
            one_row = False
        setattr(config, PAIR_ROWS, one_row)
        self.check(
            "pairs", "says something else of an answer of a pair", lambda: self._pairs(batch)
        )
        return one_row

    def _pairs(self, batch: PairBatch) -> float:
        found, worst = unembed(self.model, pair_hidden_states(self.model, batch)), 0.0
        for row, prompt in enumerate(self.prompts):
            first, second = self.own_first[row], self.own_second[row]
            joined = len(prompt) + len(self.first[row])
            worst = _worst(worst, found[row, :joined], first)
            behind = found[row, joined : joined + len(self.second[row])]
            worst = _worst(worst, behind, second[len(prompt) :])
        return worst


def _lengths(model: PreTrainedModel) -> list[tuple[int, int, int]]:
    """Lengths that the model has places for, some of them longer than its window where that is short."""
    reach, longest = window(model.config), longest_text(model.config)
    lengths = [*_LENGTHS]
    if reach is not None and reach <= _SHORT_WINDOW:
        lengths.append((reach, reach // 2 + 3, reach // 2 + 5))
    room = longest or max(map(sum, lengths))
    fitting = [row for row in lengths if row[0] + max(row[1:]) <= room]
    if not fitting:
        raise ModelError(f"the model's window of {room} tokens holds no prompt with an answer")
    return fitting


def _left_padded(prompts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.zeros((len(prompts), width), dtype=torch.int64)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(list(prompt))
        mask[row, width - len(prompt) :] = True
    return ids, mask


def _worst(so_far: float, found: Tensor, own: Tensor) -> float:
    """The larger of `so_far` and the largest difference, in standard deviations of `own` [..., V]."""
    own = own[..., : found.shape[-1]]
    if not torch.isfinite(own).all():
        raise ModelError("the model gives logits that are not finite")
    scale = own.std().clamp(min=1e-6)
    difference = float((found.float() - own).abs().max() / scale)
    # a comparison with not-a-number is false
    return difference if not difference <= so_far else so_far
