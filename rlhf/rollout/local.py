"""Sampling in this process with a key-value cache; each row draws from its own uniform numbers.

A row's response therefore depends on its prompt and its uniforms alone, not on which rows share the
batch or which process samples it (up to the rounding of the machine's matrix products, which may
vary with the batch's shape).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batches.padding import Ids
from rlhf.engine import Engine
from rlhf.models.backbone import next_token_states, unembed
from rlhf.models.saving import without_adapters
from rlhf.rollout.cache import read_prompts
from rlhf.rollout.few_rows import few_rows
from rlhf.rollout.records import Sampled
from rlhf.rollout.sampler import SamplingRule

# the nucleus nearly always lies within so many likeliest tokens
_LIKELIEST = 1024


class LocalSampler:
    """Samples with the model itself, or in bf16 with a copy of its weights, adapters merged.

    Decoding is bound by reading the weights, and half the bytes is half the time. The losses take
    log-probabilities from the model itself; `sampler_logprob_gap` in the metrics shows the rounding
    between the two.
    """

    def __init__(self, model: PreTrainedModel, engine: Engine, rule: SamplingRule) -> None:
        self._source = model
        self._rule = rule
        self._copy: PreTrainedModel | None = None
        # DeepSpeed's weights are bf16 already
        in_fp32 = next(model.parameters()).dtype == torch.float32
        if engine.precision == "bf16" and in_fp32:
            self._copy = _bf16_copy(without_adapters(model))

    @torch.no_grad()
    def refresh(self) -> None:
        if self._copy is not None:
            source = without_adapters(self._source)
            pairs = zip(self._copy.parameters(), source.parameters(), strict=True)
            for mine, current in pairs:
                mine.copy_(current)

    def sample(self, prompts: Sequence[Ids], seeds: Sequence[int]) -> Sampled:
        count = self._rule.max_new_tokens
        uniforms = torch.stack([row_uniforms(count, seed) for seed in seeds])
        model = self._source if self._copy is None else self._copy
        return sample(model, prompts, uniforms, self._rule)


def _bf16_copy(model: PreTrainedModel) -> PreTrainedModel:
    # not by way of a whole copy in float32; nor the buffers: rotary frequencies must stay in float32
    halves: dict[int, Any] = {
        id(value): nn.Parameter(value.detach().bfloat16(), requires_grad=False)
        for value in model.parameters()
    }
    return copy.deepcopy(model, halves)


def row_uniforms(count: int, seed: int) -> Tensor:
    """`count` numbers in [0, 1) for one row, [count] float32, from the stream of its seed."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


# -- the loop --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """One token for each row that has not ended: rows, tokens [A] int64 and log-probabilities [A]."""

    rows: Tensor
    tokens: Tensor
    logprobs: Tensor


def sample(
    model: PreTrainedModel, prompts: Sequence[Ids], uniforms: Tensor, rule: SamplingRule
) -> Sampled:
    """Sample one response to each prompt; `uniforms` is [B, R] with R >= max_new_tokens."""
    responses: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    for drawn in decode(model, prompts, uniforms, rule):
        columns = (drawn.rows.tolist(), drawn.tokens.tolist(), drawn.logprobs.tolist())
        for row, token, logprob in zip(*columns, strict=True):
            responses[row].append(token)
            logprobs[row].append(logprob)
    return Sampled(responses, logprobs)


@torch.no_grad()
def decode(
    model: PreTrainedModel, prompts: Sequence[Ids], uniforms: Tensor, rule: SamplingRule
) -> Iterator[Drawn]:
    """Draw token after token by inverse transform: the first one whose cumulative p exceeds u.

    Log-probabilities are those of the distribution after temperature and repetition penalty, before
    the nucleus is cut out.
    """
    device = model.device
    ids, mask = left_pad(prompts, rule.pad_id, device)
    uniforms = uniforms.to(device)
    hidden, cache = read_prompts(model, ids, mask, rule.max_new_tokens)
    rows = torch.arange(len(prompts), device=device)
    quick = few_rows(model)

    for step in range(rule.max_new_tokens):
        # 1. one token for each row
        with quick:
            logits = unembed(model, hidden)
        # padding is no token that was said: it must not be penalised
        seen = torch.where(mask, ids, ids[:, -1:])
        tokens, logprobs = draw(logits, uniforms[rows, step], seen, rule)
        yield Drawn(rows, tokens, logprobs)

        # 2. rows that have ended leave the batch, so that the time goes to the others
        going = _closed_up(_goes_on(tokens, rule))
        if len(going) == 0 or step + 1 == rule.max_new_tokens:
            return
        if len(going) < len(rows):
            cache.batch_select_indices(going)
            rows, tokens, ids, mask = rows[going], tokens[going], ids[going], mask[going]

        # 3. the others' tokens are read
        new = tokens[:, None]
        ids = torch.cat([ids, new], dim=1)
        mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        with quick:
            hidden = next_token_states(model, new, mask, cache)


def _goes_on(tokens: Tensor, rule: SamplingRule) -> Tensor:
    going = tokens != rule.eos_id
    for end in rule.other_ends:
        going &= tokens != end
    return going


def _closed_up(going: Tensor) -> Tensor:
    """Which row goes where once those that have ended are gone, from [B] bool.

    The last rows take the places of those, so few move.
    """
    count = int(going.sum())
    order = torch.arange(count, device=going.device)
    order[~going[:count]] = count + going[count:].nonzero().squeeze(1)
    return order


# -- one token -------------------------------------------------------------------------------------


def draw(
    logits: Tensor, uniforms: Tensor, seen: Tensor, rule: SamplingRule
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from `logits` [B, V] with `uniforms` [B].

    `seen` [B, T] feeds the repetition penalty. Gives tokens [B] int64 and their log-probabilities
    [B] float32.
    """
    # 1. the distribution
    if rule.repetition_penalty != 1.0:
        logits = _penalised(logits, seen, rule.repetition_penalty)
    if rule.greedy:
        tokens = logits.argmax(dim=1, keepdim=True)
        return tokens.squeeze(1), logits.log_softmax(dim=1).gather(1, tokens).squeeze(1)
    logprobs = (logits / rule.temperature).log_softmax(dim=1)
    probabilities = logprobs.exp()
    order: Tensor | None = None
    if rule.top_p < 1.0:
        probabilities, order = nucleus(probabilities, rule.top_p)

    # 2. the first token whose cumulative probability exceeds u
    cumulative = probabilities.cumsum(dim=1)
    total = cumulative[:, -1:]
    # rounding may bring u * total up to the total itself, behind the last token
    below_total = torch.nextafter(total, torch.zeros_like(total))
    thresholds = torch.minimum(uniforms[:, None] * total, below_total)
    chosen = torch.searchsorted(cumulative, thresholds, right=True)
    chosen = chosen.clamp(max=cumulative.shape[1] - 1)
    tokens = chosen if order is None else order.gather(1, chosen)
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


def _penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    scores = logits.gather(1, seen)
    # a negative logit is divided into less likely, so it is multiplied
    scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits.scatter(1, seen, scores)


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of most likely tokens that holds at least `top_p`.

    [B, V] -> probabilities and token ids, [B, K], descending; what lies outside of the set is 0.
    """
    values, order = probabilities.topk(min(_LIKELIEST, probabilities.shape[1]), dim=1)
    if float(values.sum(dim=1).min()) < top_p:
        # rare, and several times the cost
        values, order = probabilities.sort(dim=1, descending=True, stable=True)
    else:
        # equal ones by token id, as in the full sort
        order = order.sort(dim=1).values
        values, places = probabilities.gather(1, order).sort(dim=1, descending=True, stable=True)
        order = order.gather(1, places)
    before = values.cumsum(dim=1) - values
    return values.masked_fill(before >= top_p, 0.0), order


def left_pad(prompts: Sequence[Ids], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as ids [B, P] int64 and mask [B, P] bool, padded in front."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt)
        ids[row, start:] = torch.as_tensor(list(prompt))
        mask[row, start:] = True
    return ids.to(device), mask.to(device)
