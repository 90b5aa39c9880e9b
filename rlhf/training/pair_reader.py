"""Rows of the preference table as batches of pairs, and what a reward model says of them."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from rlhf.batches.pairs import PairBatch, pad_pairs
from rlhf.batches.plan import micro_batches
from rlhf.engine import Engine, share
from rlhf.models.backbone import (
    pair_hidden_states,
    target_logits,
    target_tokens,
    token_logprobs,
)
from rlhf.models.heads import ScalarModel, pair_scores
from rlhf.training.ranking import PairScores


class PairReader:
    """The pairs of a table.

    tokens: of each pair; the prompt counts once, as it is computed once
    """

    def __init__(self, table: pd.DataFrame, pad_id: int, engine: Engine) -> None:
        self.table = table
        self._pad_id = pad_id
        self._engine = engine
        prompts, chosen, rejected = (
            table[f"{name}_ids"].map(len) for name in ("prompt", "chosen", "rejected")
        )
        self.tokens: list[int] = (prompts + chosen + rejected).tolist()

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, rows: Sequence[int]) -> PairBatch:
        """The pairs in the order of `rows`, on the engine's device."""
        part = self.table.iloc[list(rows)]
        prompts, chosen, rejected = (
            list(part[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")
        )
        return pad_pairs(prompts, chosen, rejected, self._pad_id).to(self._engine.device)

    def margins_and_nll(
        self, model: ScalarModel, rows: Sequence[int], with_lm: bool
    ) -> tuple[Tensor, Tensor]:
        """r(chosen) - r(rejected), [B], and -log p of the chosen answers' tokens, [N].

        The second is empty if not asked for.
        """
        batch = self.batch(rows)
        with self._engine.autocast():
            hidden = pair_hidden_states(model.lm, batch)
            chosen, rejected = pair_scores(model, hidden, batch).unbind(dim=1)
            # the unembedding is most of the work with a large vocabulary
            if not with_lm:
                return chosen - rejected, chosen.new_zeros(0)
            logits = target_logits(model.lm, hidden, batch.tokens)
        return chosen - rejected, -token_logprobs(logits, target_tokens(batch.tokens))

    @torch.no_grad()
    def score_all(self, model: ScalarModel, tokens: int) -> PairScores:
        """Score every pair, at most `tokens` at once; the same on all processes, in the table's order."""
        scored: list[tuple[int, float, float]] = []
        parts = micro_batches(range(len(self)), self.tokens, tokens)
        for rows, weight in share(parts, self._engine.rank, self._engine.world_size):
            scores = self._scores(model, rows)
            # one of weight 0 only keeps step with the other processes
            if weight:
                scored += [(row, *pair) for row, pair in zip(rows, scores, strict=True)]
        # micro-batches are by length: back to the order of the table
        ordered = sorted(self._engine.all_gather(scored))
        chosen = [score for _, score, _ in ordered]
        rejected = [score for _, _, score in ordered]
        return PairScores(chosen, rejected)

    def _scores(self, model: ScalarModel, rows: Sequence[int]) -> list[tuple[float, float]]:
        batch = self.batch(rows)
        with self._engine.autocast():
            scores = pair_scores(model, pair_hidden_states(model.lm, batch), batch)
        return [(float(chosen), float(rejected)) for chosen, rejected in scores.tolist()]
