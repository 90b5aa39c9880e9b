"""Rows of the table `steps` as batches, and what a process reward model says of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rlhf.batches.plan import micro_batches
from rlhf.batches.solutions import SolutionBatch, pad_solutions
from rlhf.engine import Engine, share
from rlhf.models.heads import ScalarModel, scalars_at
from rlhf.training.step_ranking import StepScores


class SolutionReader:
    """The answers of a table.

    tokens: of each row; labelled: steps with a label of each row
    """

    def __init__(self, table: pd.DataFrame, pad_id: int, engine: Engine) -> None:
        self.table = table
        self._pad_id = pad_id
        self._engine = engine
        prompts, responses = (table[f"{name}_ids"].map(len) for name in ("prompt", "response"))
        self.tokens: list[int] = (prompts + responses).tolist()
        self.labelled: list[int] = [int((~np.isnan(row)).sum()) for row in table["labels"]]

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, rows: Sequence[int]) -> SolutionBatch:
        """The answers in the order of `rows`, on the engine's device."""
        part = self.table.iloc[list(rows)]
        batch = pad_solutions(
            prompts=list(part["prompt_ids"]),
            responses=list(part["response_ids"]),
            step_ends=list(part["step_ends"]),
            labels=list(part["labels"]),
            pad_id=self._pad_id,
        )
        return batch.to(self._engine.device)

    def logits_and_labels(self, model: ScalarModel, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of every step of some rows, row by row, [S] each; NaN for a step without a label."""
        batch = self.batch(rows)
        with self._engine.autocast():
            return scalars_at(model, batch.tokens, batch.ends), batch.labels

    @torch.no_grad()
    def score_all(self, model: ScalarModel, tokens: int) -> StepScores:
        """Score every step, at most `tokens` at once; the same on all processes, in the table's order."""
        scored: list[tuple[int, list[float]]] = []
        parts = micro_batches(range(len(self)), self.tokens, tokens)
        for rows, weight in share(parts, self._engine.rank, self._engine.world_size):
            logits, _ = self.logits_and_labels(model, rows)
            # one of weight 0 only keeps step with the other processes
            if weight:
                steps = [len(self.table["step_ends"].iloc[row]) for row in rows]
                scored += zip(rows, (part.tolist() for part in logits.split(steps)), strict=True)
        # micro-batches are by length: back to the order of the table
        ordered = sorted(self._engine.all_gather(scored))
        labels = [[float(label) for label in row] for row in self.table["labels"]]
        return StepScores([row for _, row in ordered], labels)
