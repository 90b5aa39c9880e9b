"""Samplers: whatever draws responses from a model. A new one is a file and a line in `rlhf.registry`.

`PolicySampler` gives each response its random stream and makes the record of a rollout;
how tokens are drawn is behind `Sampler`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batches.padding import Ids
from rlhf.core.seeds import derive_seed
from rlhf.core.tokenizers import end_ids
from rlhf.engine import Engine
from rlhf.registry import SAMPLERS, find
from rlhf.rollout.prompts import PromptBatch
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.settings.section import Section

# no token has this id
_NEVER = -1


@dataclass(frozen=True)
class SamplingRule:
    """How one token is drawn from the logits: repetition penalty, then temperature, then the nucleus.

    other_ends: tokens that end a response as `eos_id` does (Gemma ends turns and documents with two)
    greedy: after the penalty the likeliest token, always
    """

    max_new_tokens: int
    eos_id: int
    pad_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    greedy: bool = False
    other_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends a response."""
        return (self.eos_id, *self.other_ends)


def answering_rule(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, **how: Any
) -> SamplingRule:
    """The rule of a model that answers with its own tokenizer, by whatever tokens it ends a response.

    how: temperature, top_p, ... of a `SamplingRule`
    """
    ends = end_ids(tokenizer, model.generation_config)
    pad_id = tokenizer.pad_token_id
    return SamplingRule(
        max_new_tokens=max_new_tokens,
        # a model that names no end answers up to the limit
        eos_id=ends[0] if ends else _NEVER,
        # padding is masked: any token does
        pad_id=0 if pad_id is None else int(pad_id),
        other_ends=ends[1:],
        **how,
    )


@dataclass(frozen=True)
class SamplerPlace:
    """What a sampler with a section of its own is made with besides: `ppo.sampling.<its name>`.

    folder: for files of its own, which it removes; the same for all samplers of a run
    log: the file in which a server of its own may write
    """

    settings: Section
    folder: Path
    log: Path


class Sampler(Protocol):
    """Draws responses from one model, whose weights may change between draws.

    Made as `Sampler(model, engine, rule)`, with a `SamplerPlace` as the fourth where it has a section.
    """

    def refresh(self) -> None:
        """Take over the model's present weights; the loop calls it before each draw."""
        ...

    def sample(self, prompts: Sequence[Ids], seeds: Sequence[int]) -> Sampled:
        """One response to each prompt; the same prompt, seed and weights give the same response."""
        ...


def make_sampler(
    name: str,
    model: PreTrainedModel,
    engine: Engine,
    rule: SamplingRule,
    place: SamplerPlace | None = None,
) -> Sampler:
    """Make the sampler that the settings name (`ppo.sampling.sampler`); place: of one with a section."""
    own = () if place is None else (place,)
    sampler: Sampler = find(SAMPLERS, name)(model, engine, rule, *own)
    return sampler


class PolicySampler:
    """Rollouts from a policy that goes on learning."""

    def __init__(
        self,
        sampler: Sampler,
        rule: SamplingRule,
        seed: int,
        device: torch.device,
        batch_size: int | None = None,
    ) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._rule = rule
        self._seed = seed
        self._device = device

    def refresh(self) -> None:
        """Take over the policy's present weights."""
        self._sampler.refresh()

    def rollout(self, prompts: PromptBatch, *draw: str | int) -> Rollout:
        """One response a row of `prompts`.

        `draw` names the draw and, where there are several, its iteration. A response's random
        stream is (seed, *draw, position of its prompt, number of the response): no two draws and
        no two responses share one.
        """
        streams = zip(prompts.positions, prompts.response_numbers, strict=True)
        seeds = [self._stream_seed(draw, position, number) for position, number in streams]
        sampled = self._sample(prompts.ids, seeds)
        rule = self._rule
        return make_rollout(
            prompts, sampled, rule.eos_id, rule.pad_id, self._device, rule.other_ends
        )

    def _sample(self, prompts: Sequence[Ids], seeds: Sequence[int]) -> Sampled:
        """At most `batch_size` at once."""
        size = self._batch_size or max(1, len(prompts))
        drawn = [
            self._sampler.sample(prompts[start : start + size], seeds[start : start + size])
            for start in range(0, len(prompts), size)
        ]
        responses = [response for part in drawn for response in part.responses]
        return Sampled(responses, [row for part in drawn for row in part.logprobs])

    def _stream_seed(self, draw: Sequence[str | int], position: int, number: int) -> int:
        # the first response is named without a number, as where there is only one
        further = (number,) if number else ()
        return derive_seed(self._seed, *draw, position, *further)
