"""The policy as a sampler: a copy in the sampling precision, brought up to date before each rollout."""

import copy
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel

from rlhf.core.seeds import generator
from rlhf.engine import Engine
from rlhf.rollout.records import PromptBatch, Rollout, make_rollout
from rlhf.rollout.sampler import SamplingRule, row_uniforms, sample


class Actor:
    """Samples rollouts from a policy that goes on learning.

    In bf16 a copy of the weights is kept: decoding is bound by reading them, and half the bytes is half the time. The
    losses take log-probabilities from the policy itself; `sampler_logprob_gap` in the metrics shows the rounding between.
    """

    def __init__(
        self, policy: PreTrainedModel, engine: Engine, rule: SamplingRule, seed: int
    ) -> None:
        self._policy, self._engine, self._rule, self._seed = policy, engine, rule, seed
        self._copy: PreTrainedModel | None = None
        if (
            engine.precision == "bf16" and next(policy.parameters()).dtype == torch.float32
        ):  # DeepSpeed's are bf16 already
            self._copy = copy.deepcopy(policy).requires_grad_(False)
            for value in (
                self._copy.parameters()
            ):  # not the buffers: rotary frequencies must stay in float32
                value.data = value.data.bfloat16()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the policy's present weights."""
        if self._copy is not None:
            for mine, its in zip(self._copy.parameters(), self._policy.parameters(), strict=True):
                mine.copy_(its)

    def rollout(self, prompts: PromptBatch, *names: str | int) -> Rollout:
        """One response to each prompt; row i draws from the stream (seed, *names, prompts.rows[i])."""
        count = self._rule.max_new_tokens
        uniforms = torch.stack(
            [row_uniforms(count, self._seed, *names, row) for row in prompts.rows]
        )
        model = self._copy if self._copy is not None else self._policy
        sampled = sample(model, prompts.ids, uniforms, self._rule)
        return make_rollout(
            prompts, sampled, self._rule.eos_id, self._rule.pad_id, self._engine.device
        )


class PromptStream:
    """The training prompts in an order fixed by the seed, epoch after epoch; any iteration's share can be asked for."""

    def __init__(self, table: pd.DataFrame, texts: Sequence[str], seed: int) -> None:
        self._table, self._texts, self._seed = table, texts, seed
        self._epochs: dict[int, list[int]] = {}

    def take(
        self,
        iteration: int,
        count: int,
        mini_batch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> PromptBatch:
        """Prompts of iteration `iteration` (from 0), this process's part of `count` over all processes.

        The part holds a share of every mini-batch, so that mini-batches are the same however many processes there are.
        """
        size = mini_batch or count
        first = iteration * count
        rows = [first + row for row in range(count) if row % size * world_size // size == rank]
        return self._batch(
            [self._order(row // len(self._table))[row % len(self._table)] for row in rows], rows
        )

    def first(self, count: int, rank: int = 0, world_size: int = 1) -> PromptBatch:
        """The first `count` rows of the table, as they stand: a fixed set for monitoring."""
        rows = list(range(min(count, len(self._table))))[rank::world_size]
        return self._batch(rows, rows)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._epochs:
            random = generator(self._seed, "prompts", epoch)
            self._epochs[epoch] = torch.randperm(len(self._table), generator=random).tolist()
        return self._epochs[epoch]

    def _batch(self, indices: Sequence[int], rows: list[int]) -> PromptBatch:
        part = self._table.iloc[list(indices)]
        ids = [[int(token) for token in tokens] for tokens in part["prompt_ids"]]
        return PromptBatch(
            ids,
            [str(kind) for kind in part["kind"]],
            [self._texts[index] for index in indices],
            rows,
        )
