"""Sampling responses with a key-value cache; each row draws from its own stream of uniform numbers.

A row's response therefore depends on its prompt and its uniforms alone, not on which rows share the batch or which
process samples it (up to the rounding of the machine's matrix products, which may vary with the batch's shape).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.core.seeds import generator
from rlhf.rollout.cache import read_prompts

_LIKELIEST = 1024


@dataclass(frozen=True)
class SamplingRule:
    """How one token is drawn from the logits: repetition penalty, then temperature, then the nucleus."""

    max_new_tokens: int
    eos_id: int
    pad_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Sampled:
    """Responses as token ids (the last is `eos_id` if it ended by itself) and the sampler's own log p of each token."""

    responses: list[list[int]]
    logprobs: list[list[float]]


def row_uniforms(count: int, seed: int, *names: str | int) -> Tensor:
    """`count` numbers in [0, 1) for one row, [count] float32, from the stream that the names give."""
    return torch.rand(count, generator=generator(seed, *names))


def sample_responses(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], uniforms: Tensor, rule: SamplingRule
) -> list[list[int]]:
    """Sample one response for each prompt; `uniforms` is [B, R] with R >= max_new_tokens."""
    return sample(model, prompts, uniforms, rule).responses


@torch.no_grad()
def sample(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], uniforms: Tensor, rule: SamplingRule
) -> Sampled:
    """Sample one response for each prompt by inverse transform: token = first one whose cumulative p exceeds u.

    Rows that have ended leave the batch, so that the time goes to the others. Log-probabilities are those of the
    distribution after temperature and repetition penalty, before the nucleus is cut out.
    """
    device = model.device
    ids, mask = _left_pad(prompts, rule.pad_id, device)
    uniforms = uniforms.to(device)
    hidden, cache = read_prompts(model, ids, mask, rule.max_new_tokens)
    active = torch.arange(len(prompts), device=device)
    responses: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    for step in range(rule.max_new_tokens):
        logits = model.get_output_embeddings()(hidden).float()
        seen = torch.where(
            mask, ids, ids[:, -1:]
        )  # padding is no token that was said: it must not be penalised
        tokens, token_logprobs = draw(logits, uniforms[active, step], seen, rule)
        for row, token, logprob in zip(
            active.tolist(), tokens.tolist(), token_logprobs.tolist(), strict=True
        ):
            responses[row].append(token)
            logprobs[row].append(logprob)
        going = _closed_up(tokens != rule.eos_id)
        if len(going) == 0 or step + 1 == rule.max_new_tokens:
            break
        if len(going) < len(active):
            cache.batch_select_indices(going)
            active, tokens, ids, mask = active[going], tokens[going], ids[going], mask[going]
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(tokens[:, None], dtype=torch.bool)], dim=1)
        hidden = model.base_model(
            input_ids=tokens[:, None],
            attention_mask=mask.long(),
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    return Sampled(responses, logprobs)


def _closed_up(going: Tensor) -> Tensor:
    """Which row goes where once those that have ended are gone, from [B] bool: the last ones take their places, few move."""
    count = int(going.sum())
    order = torch.arange(count, device=going.device)
    order[~going[:count]] = count + going[count:].nonzero().squeeze(1)
    return order


def draw(
    logits: Tensor, uniforms: Tensor, seen: Tensor, rule: SamplingRule
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from `logits` [B, V] with `uniforms` [B]; `seen` [B, T] feeds the repetition penalty.

    Gives tokens [B] int64 and their log-probabilities [B] float32.
    """
    if rule.repetition_penalty != 1.0:
        scores = logits.gather(1, seen)
        scores = torch.where(
            scores < 0, scores * rule.repetition_penalty, scores / rule.repetition_penalty
        )
        logits = logits.scatter(1, seen, scores)
    logprobs = (logits / rule.temperature).log_softmax(dim=1)
    probabilities = logprobs.exp()
    order: Tensor | None = None
    if rule.top_p < 1.0:
        probabilities, order = nucleus(probabilities, rule.top_p)
    cumulative = probabilities.cumsum(dim=1)
    total = cumulative[:, -1:]
    thresholds = torch.minimum(
        uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )  # rounding
    chosen = torch.searchsorted(cumulative, thresholds, right=True).clamp(
        max=cumulative.shape[1] - 1
    )
    tokens = chosen if order is None else order.gather(1, chosen)
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of most likely tokens that holds at least `top_p`: [B, V] -> probabilities and token ids, [B, K].

    Descending; what lies outside of the set is 0. The likeliest thousand nearly always hold it, and finding them costs
    a fraction of sorting the vocabulary; where they do not, everything is sorted.
    """
    values, order = probabilities.topk(min(_LIKELIEST, probabilities.shape[1]), dim=1)
    if float(values.sum(dim=1).min()) < top_p:
        values, order = probabilities.sort(dim=1, descending=True, stable=True)
    else:  # equal ones by token id, as in the full sort
        order = order.sort(dim=1).values
        values, places = probabilities.gather(1, order).sort(dim=1, descending=True, stable=True)
        order = order.gather(1, places)
    before = values.cumsum(dim=1) - values
    return values.masked_fill(before >= top_p, 0.0), order


def _left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(list(prompt))
        mask[row, width - len(prompt) :] = True
    return ids.to(device), mask.to(device)
