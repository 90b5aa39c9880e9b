"""Supervised fine-tuning: the loss falls on the assistant's tokens only (section 5.1)."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rlhf.batches.padding import TokenBatch, pad
from rlhf.batches.plan import Limits, epoch_plan, micro_batches
from rlhf.batches.tables import read_rows_of
from rlhf.common.files import staged_directory
from rlhf.common.metrics import write_summary
from rlhf.core.tally import Tally
from rlhf.engine import Loss, share
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.saving import load_causal_lm, load_tokenizer, save_causal_lm
from rlhf.models.trainable import choose_trainable, inseparable
from rlhf.settings import Settings
from rlhf.training.run import TrainingRun, begin, row_ids
from rlhf.training.supervised import FitResult, Task, fit
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")


def train(settings: Settings, workspace: Workspace) -> None:
    """Fine-tune models/base on the `sft` table; writes models/sft and metrics/sft.{json,jsonl}."""
    inputs = {
        "base": workspace.model("base"),
        "table": workspace.prepared / "sft.parquet",
    }
    run = begin("sft", settings, workspace, ["sft", "data"], inputs)
    task = FineTuning(run)
    result = fit(run, task.trainer, task)
    task.save(result)


class FineTuning(Task):
    """The model and the dialogues that it learns from."""

    shown = ("train_loss",)

    def __init__(self, run: TrainingRun) -> None:
        settings, workspace = run.settings, run.workspace
        section = settings.sft
        self.run = run
        self.engine = run.engine
        self.micro_batch_tokens = section.micro_batch_tokens
        self.evaluate_every = section.evaluate_every
        self.checkpoint_every = section.checkpoint_every

        # 1. dialogues
        self.tokenizer = load_tokenizer(workspace.model("base"))
        self.rows = read_rows_of(workspace, "sft", "train")
        self.held_out = read_rows_of(workspace, "sft", "validation")

        # 2. the model
        self.model = load_causal_lm(workspace.model("base"), self.engine.dtype)
        layers, lora = section.trainable_layers, section.lora
        choose_trainable(self.model, layers, lora, settings.seed, "sft")
        self._warn_of_endless_answers()

        # 3. which dialogues each step learns from
        self.tokens = [len(ids) for ids in self.rows["input_ids"]]
        self.targets = [int(sum(mask)) for mask in self.rows["loss_mask"]]
        limits = Limits(section.batch_tokens)
        self.plan = epoch_plan(self.tokens, limits, section.epochs, settings.seed, "sft")
        self.trainer = self.engine.trainer(self.model, section.optimizer, len(self.plan))

    def _warn_of_endless_answers(self) -> None:
        others = inseparable(self.model, int(self.tokenizer.eos_token_id))
        if others and self.run.is_main:
            log.warning(
                "sft: the unembedding does not learn (lora, trainable_layers), and in it %r is the same as "
                "%d others, %r for one: answers cannot learn to end with it alone; let all weights learn, "
                "or choose a model.chat_template whose end of turn the base knows",
                self.tokenizer.eos_token,
                len(others),
                self.tokenizer.convert_ids_to_tokens(others[0]),
            )

    def losses(self, rows: Sequence[int], tally: Tally) -> list[Loss]:
        """-log p of the assistant's tokens, a mean over those of the whole batch."""
        count = sum(self.targets[row] for row in rows)
        parts = micro_batches(rows, self.tokens, self.micro_batch_tokens)
        own = share(parts, self.engine.rank, self.engine.world_size)
        return [partial(self._loss, part, weight, count, tally) for part, weight in own]

    def _loss(self, part: list[int], weight: float, count: int, tally: Tally) -> Tensor:
        nll = -self._logprobs(self.rows, part)
        tally.add(weight, train_loss=nll)
        return weight * nll.sum() / count

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity on the validation split."""
        tally = Tally()
        lengths = [len(ids) for ids in self.held_out["input_ids"]]
        # without gradients twice as much fits
        parts = micro_batches(range(len(lengths)), lengths, 2 * self.micro_batch_tokens)
        for part, weight in share(parts, self.engine.rank, self.engine.world_size):
            tally.add(weight, validation_loss=-self._logprobs(self.held_out, part))
        loss = tally.means(self.engine.all_sum)["validation_loss"]
        # a perplexity beyond e^50 is no number that JSON has
        return {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 50.0))}

    def evidence(self, rows: Sequence[int]) -> dict[str, Any]:
        """The identities of dialogues."""
        return row_ids(self.rows, rows)

    def save(self, result: FitResult) -> None:
        """Write model and summary; every process calls it."""
        workspace = self.run.workspace
        # every process: under ZeRO-3 each holds a part of the weights
        with self.trainer.gathered():
            if self.run.is_main:
                with staged_directory(workspace.model("sft")) as directory:
                    save_causal_lm(self.model, self.tokenizer, directory)
        if not self.run.is_main:
            return
        summary = {
            "train_loss": result.train["train_loss"],
            **result.held_out,
            "base_validation_loss": result.initial["validation_loss"],
            "base_validation_perplexity": result.initial["validation_perplexity"],
            "steps": len(self.plan),
            "dialogues": len(self.rows),
            "precision": self.engine.precision,
            "seconds": result.seconds,
            "tokens_per_second": result.tokens / result.seconds,
        }
        write_summary(workspace.metrics("sft"), summary)
        self.run.checkpoints.finish()

    def _logprobs(self, table: pd.DataFrame, rows: Sequence[int]) -> Tensor:
        """log p of the target tokens of some rows, [N]."""
        batch = self._batch(table, rows)
        with self.engine.autocast():
            hidden = hidden_states(self.model, batch)
            logits = target_logits(self.model, hidden, batch)
        return token_logprobs(logits, target_tokens(batch))

    def _batch(self, table: pd.DataFrame, rows: Sequence[int]) -> TokenBatch:
        part = table.iloc[list(rows)]
        ids, masks = list(part["input_ids"]), list(part["loss_mask"])
        return pad(ids, masks, int(self.tokenizer.pad_token_id)).to(self.engine.device)
