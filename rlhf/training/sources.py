"""What the policy loop draws on for an algorithm: rollouts, plain text, rows of tables."""

import json
from collections import Counter
from functools import cached_property
from time import monotonic

import pandas as pd
from transformers import PreTrainedTokenizerBase

from rlhf.algorithms.base import POLICY
from rlhf.batches.padding import TokenBatch, pad
from rlhf.batches.tables import read_rows_of
from rlhf.core.reach import check_window
from rlhf.models.roles import Models
from rlhf.rollout.prompts import Messages, PromptBatch, PromptStream, Share
from rlhf.rollout.records import Rollout
from rlhf.rollout.sampler import (
    PolicySampler,
    SamplerPlace,
    SamplingRule,
    answering_rule,
    make_sampler,
)
from rlhf.training.run import TrainingRun


class RunSources:
    """The `Sources` of one run, and what sampling cost in the iteration that is under way."""

    def __init__(
        self, run: TrainingRun, models: Models, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._run = run
        self._models = models
        self._tokenizer = tokenizer
        self._section = run.settings.ppo
        self._share = Share(run.engine.rank, run.engine.world_size)
        self._samplers: dict[str, PolicySampler] = {}
        self._prompts = self._stream("train")
        # the policy's may hold a copy of its weights: made at once, not in the middle of a run
        self._sampler(POLICY)
        self.begin(0)

    def begin(self, index: int) -> None:
        """Turn to iteration `index`, counted from 0, iterations before learning included."""
        self._index = index
        self._draws = Counter[str]()
        self.seconds = 0.0
        self.tokens = 0.0

    # -- what an algorithm asks for ----------------------------------------------------------------

    def rollouts(self, role: str = POLICY, responses: int = 1) -> Rollout:
        """Responses of the model in `role` to this iteration's prompts, `responses` to each."""
        section = self._section
        prompts = self._prompts.take(
            self._index, section.rollouts, section.mini_batch, self._share, responses
        )
        return self._draw(role, prompts, self._next_draw(role, "rollout"))

    def responses_to(self, prompts: PromptBatch, role: str = POLICY) -> Rollout:
        """One response of the model in `role` to each row of `prompts`, this process's part of them."""
        return self._draw(role, prompts, self._next_draw(role, "response to given prompts"))

    def plain_text(self, windows: int, step: int) -> TokenBatch:
        """This process's part of the `windows` of plain text for optimiser step `step` of the run."""
        table, share = self._pretrain, self._share
        # steps follow each other, the table begins anew at its end; processes take turns
        rows = [(step * windows + offset) % len(table) for offset in range(windows)]
        own = rows[share.rank :: share.world_size]
        texts = [[int(token) for token in table["input_ids"].iloc[row]] for row in own or rows[:1]]
        # without one of its own a process reads another's to keep step: no token of it counts
        masks = [[bool(own)] * len(text) for text in texts]
        return pad(texts, masks, self._pad_id).to(self._run.engine.device)

    def rows(self, table: str) -> pd.DataFrame:
        """The training rows of a prepared table."""
        return read_rows_of(self._run.workspace, table, "train")

    # -- validation --------------------------------------------------------------------------------

    def validation_prompts(self) -> PromptBatch:
        """The fixed prompts that every validation asks, this process's share."""
        return self._stream("validation").first(self._section.validation_prompts, self._share)

    def validation_rollout(self, prompts: PromptBatch) -> Rollout:
        """The policy's responses to them, from random streams that are the same each time."""
        return self._sample(POLICY, prompts, "validation")

    # -- helpers -----------------------------------------------------------------------------------

    def _draw(self, role: str, prompts: PromptBatch, draw: str) -> Rollout:
        """A draw of this iteration, counted."""
        began = monotonic()
        rollout = self._sample(role, prompts, draw, self._index)
        self.seconds += monotonic() - began
        tokens = rollout.response_mask.sum().double()
        self.tokens += float(self._run.engine.all_sum(tokens))
        return rollout

    def _next_draw(self, role: str, kind: str) -> str:
        """The name of a role's next draw of a kind in this iteration; no two coincide."""
        # the policy's has no role in its name, and a first one no number
        draw = kind if role == POLICY else f"{kind} of {role}"
        number = self._draws[draw]
        self._draws[draw] += 1
        return draw if number == 0 else f"{draw}, call {number}"

    def _sample(self, role: str, prompts: PromptBatch, *draw: str | int) -> Rollout:
        sampler = self._sampler(role)
        # a sampler reads whole weights, which ZeRO-3 keeps in parts
        with self._models.gathered(role):
            sampler.refresh()
            return sampler.rollout(prompts, *draw)

    def _sampler(self, role: str) -> PolicySampler:
        if role not in self._samplers:
            rule = self._rule()
            engine, settings = self._run.engine, self._run.settings
            model = self._models.language_model(role)
            section = settings.ppo.sampling
            sampler = make_sampler(section.sampler, model, engine, rule, self._place())
            self._samplers[role] = PolicySampler(
                sampler, rule, settings.seed, engine.device, section.batch_size
            )
        return self._samplers[role]

    def _place(self) -> SamplerPlace | None:
        """Where a sampler with a section of its own may keep files; None for one without."""
        section, run = self._section.sampling.section, self._run
        if section is None:
            return None
        log = run.workspace.logs / f"{self._section.sampling.sampler}.log"
        return SamplerPlace(section, run.checkpoints.directory / "sampler", log)

    def _rule(self) -> SamplingRule:
        section, data = self._section, self._run.settings.data
        model = self._models.language_model(POLICY)
        longest = section.max_response_tokens or data.max_response_tokens
        what = "data.max_prompt_tokens + ppo.max_response_tokens"
        check_window(model.config, {what: data.max_prompt_tokens + longest})
        return answering_rule(
            model,
            self._tokenizer,
            max_new_tokens=longest,
            temperature=section.sampling.temperature,
        )

    @property
    def _pad_id(self) -> int:
        return int(self._tokenizer.pad_token_id)

    @cached_property
    def _pretrain(self) -> pd.DataFrame:
        return self.rows("pretrain")

    def _stream(self, split: str) -> PromptStream:
        table = read_rows_of(self._run.workspace, "prompts", split)
        messages = [json.loads(text) for text in table["messages"]]
        texts = [transcript(dialogue) for dialogue in messages]
        return PromptStream(table, texts, self._run.settings.seed, messages)


def transcript(messages: Messages) -> str:
    """A dialogue for readers."""
    turns = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n\n".join(turns)
