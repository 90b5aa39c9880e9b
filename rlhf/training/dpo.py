"""DPO: the SFT model learns from preference pairs directly (arXiv 2305.18290, 2404.12358).

The model is then the optimal token-level Q function of the reward that it stands for,
beta log(pi / pi_ref). Its reference is the SFT model that it starts from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rlhf.batches.plan import Limits, epoch_plan, micro_batches
from rlhf.batches.tables import read_rows_of
from rlhf.common.errors import SettingsError
from rlhf.common.files import staged_directory, weights_sha256, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.core.tally import Tally
from rlhf.engine import Loss, share
from rlhf.engine.state import load_state, save_state
from rlhf.models.dpo import DpoNote, save_dpo_model
from rlhf.models.pair_answers import answer_logprobs
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.models.trainable import choose_trainable
from rlhf.ppo.dpo import dpo_loss, implicit_rewards, ipo_loss
from rlhf.settings import Settings
from rlhf.settings.training import Dpo
from rlhf.training.balanced import balanced
from rlhf.training.pair_reader import PairReader
from rlhf.training.ranking import PairScores, details, summary
from rlhf.training.run import TrainingRun, begin, row_ids
from rlhf.training.supervised import FitResult, Task, fit
from rlhf.workspace import Workspace

# beside the checkpoints: computed once, before the first step
_REFERENCE = "reference"
_SPLITS = ("train", "validation", "test")


def train(settings: Settings, workspace: Workspace) -> None:
    """Train models/dpo from models/sft on the `preferences` table; writes the model and its metrics."""
    inputs = {
        "sft": workspace.model("sft"),
        "table": workspace.prepared / "preferences.parquet",
    }
    run = begin("dpo", settings, workspace, ["dpo", "data"], inputs)
    task = DpoTraining(run)
    result = fit(run, task.trainer, task)
    task.save(result)


@dataclass(frozen=True)
class Pairs:
    """The pairs of a split, and what the reference says of them.

    reference: [pairs, 2] float32 on the CPU, log pi_ref of the chosen and of the rejected answers
    """

    reader: PairReader
    reference: Tensor

    @property
    def table(self) -> pd.DataFrame:
        """The rows."""
        return self.reader.table


class DpoTraining(Task):
    """The model, and the pairs that it learns from."""

    shown = ("train_loss", "train_accuracy")

    def __init__(self, run: TrainingRun) -> None:
        settings, workspace = run.settings, run.workspace
        section = settings.dpo
        if section is None:
            raise SettingsError("dpo: null, so there is nothing to train; the stage is off")
        self.run = run
        self.engine = run.engine
        self.section: Dpo = section
        self.micro_batch_tokens = section.micro_batch_tokens
        self.evaluate_every = section.evaluate_every
        self.checkpoint_every = section.checkpoint_every

        # 1. pairs
        start = workspace.model("sft")
        self.tokenizer = load_tokenizer(start)
        tables = {split: read_rows_of(workspace, "preferences", split) for split in _SPLITS}
        self.rows = tables["train"]
        if section.balance_kinds:
            tables["train"] = balanced(self.rows)
        readers = {split: self._reader(table) for split, table in tables.items()}

        # 2. the model
        self.model = load_causal_lm(start, self.engine.dtype)
        layers, lora = section.trainable_layers, section.lora
        choose_trainable(self.model, layers, lora, settings.seed, "dpo")

        # 3. which pairs each step learns from
        self.tokens = readers["train"].tokens
        limits = Limits(section.batch_tokens, section.min_pairs, section.max_pairs)
        plan = epoch_plan(self.tokens, limits, section.epochs, settings.seed, "dpo")
        self.plan = plan[: section.max_steps]
        self.trainer = self.engine.trainer(self.model, section.optimizer, len(self.plan))

        # 4. what the reference says: before its first step the model is the reference
        reference = self._reference_logprobs(readers)
        pairs = {split: Pairs(reader, reference[split]) for split, reader in readers.items()}
        self.pairs, self.held_out, self.test = (pairs[split] for split in _SPLITS)

    # -- training ----------------------------------------------------------------------------------

    def losses(self, rows: Sequence[int], tally: Tally) -> list[Loss]:
        """The mean over the pairs of the whole batch of the loss that `dpo.loss` names."""
        parts = micro_batches(rows, self.tokens, self.micro_batch_tokens)
        own = share(parts, self.engine.rank, self.engine.world_size)
        loss = partial(self._loss, count=len(rows), tally=tally)
        return [partial(loss, part, weight) for part, weight in own]

    def _loss(self, part: list[int], weight: float, *, count: int, tally: Tally) -> Tensor:
        logprobs = self._logprobs(self.pairs.reader, part)
        reference = self.pairs.reference[part].to(logprobs.device)
        losses = self._pair_losses(logprobs, reference)
        tally.add(weight, **self._described("train", logprobs, reference, losses))
        # the count is that of the whole batch: micro-batches and processes only add up
        return weight * losses.sum() / count

    def _pair_losses(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """The loss of each pair, [B], from sums of log-probabilities [B, 2] of both models."""
        section = self.section
        chosen, rejected = logprobs.unbind(dim=1)
        reference_chosen, reference_rejected = reference.unbind(dim=1)
        sums = (chosen, rejected, reference_chosen, reference_rejected)
        if section.loss == "ipo":
            return ipo_loss(*sums, section.beta)
        return dpo_loss(*sums, section.beta, section.label_smoothing)

    def _described(
        self, split: str, logprobs: Tensor, reference: Tensor, losses: Tensor
    ) -> dict[str, Tensor]:
        """What is told of some pairs, each [B]; log-probabilities are sums in nats."""
        rewards = implicit_rewards(logprobs, reference, self.section.beta)
        margins = rewards[:, 0] - rewards[:, 1]
        return {
            f"{split}_loss": losses,
            f"{split}_accuracy": (margins > 0).float(),
            f"{split}_margin": margins,
            f"{split}_chosen_logprob": logprobs[:, 0],
            f"{split}_rejected_logprob": logprobs[:, 1],
        }

    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy, margin and log-probabilities on the validation split."""
        return self._measured("validation", self.held_out, self._all_logprobs(self.held_out.reader))

    def _measured(self, split: str, pairs: Pairs, logprobs: Tensor) -> dict[str, float]:
        losses = self._pair_losses(logprobs, pairs.reference)
        told = self._described(split, logprobs, pairs.reference, losses)
        return {key: float(values.double().mean()) for key, values in told.items()}

    def evidence(self, rows: Sequence[int]) -> dict[str, Any]:
        """The identities of pairs."""
        return row_ids(self.pairs.table, rows)

    # -- log-probabilities -------------------------------------------------------------------------

    def _reader(self, table: pd.DataFrame) -> PairReader:
        return PairReader(table, int(self.tokenizer.pad_token_id), self.engine)

    def _logprobs(self, reader: PairReader, rows: Sequence[int]) -> Tensor:
        """log pi of both answers of some pairs, [B, 2]."""
        with self.engine.autocast():
            return answer_logprobs(self.model, reader.batch(rows))

    @torch.no_grad()
    def _all_logprobs(self, reader: PairReader) -> Tensor:
        """log pi of both answers of every pair, [pairs, 2] on the CPU; the same on all processes."""
        found: list[tuple[int, list[float]]] = []
        # without gradients twice as much fits
        parts = micro_batches(range(len(reader)), reader.tokens, 2 * self.micro_batch_tokens)
        for rows, weight in share(parts, self.engine.rank, self.engine.world_size):
            sums = self._logprobs(reader, rows).tolist()
            # one of weight 0 only keeps step with the other processes
            if weight:
                found += zip(rows, sums, strict=True)
        # micro-batches are by length: back to the order of the table
        return torch.tensor([sums for _, sums in sorted(self.engine.all_gather(found))])

    def _reference_logprobs(self, readers: dict[str, PairReader]) -> dict[str, Tensor]:
        """log pi_ref of both answers of every pair, by split; a run that goes on finds them stored."""
        directory = self.run.checkpoints.directory
        stored = [(directory / _REFERENCE).is_dir()] if self.run.is_main else []
        if self.engine.all_gather(stored)[0]:
            return load_state(directory, _REFERENCE)
        sums = {split: self._all_logprobs(reader) for split, reader in readers.items()}
        if self.run.is_main:
            with staged_directory(directory / _REFERENCE) as partial_directory:
                save_state(partial_directory.parent, partial_directory.name, sums)
        return sums

    # -- outputs -----------------------------------------------------------------------------------

    def save(self, result: FitResult) -> None:
        """Write model, details and summary; every process calls it."""
        run, workspace = self.run, self.run.workspace
        # 1. the model, which remembers its reference
        logprobs = self._all_logprobs(self.test.reader)
        with self.trainer.gathered():
            if run.is_main:
                reference = weights_sha256(workspace.model("sft"))
                note = DpoNote(self.section.beta, self.section.loss, reference)
                with staged_directory(workspace.model("dpo")) as directory:
                    save_dpo_model(self.model, self.tokenizer, directory, note)
        if not run.is_main:
            return

        # 2. how well its implicit reward ranks the test pairs
        rewards = implicit_rewards(logprobs, self.test.reference, self.section.beta)
        scores = PairScores(rewards[:, 0].tolist(), rewards[:, 1].tolist())
        write_json(workspace.details("dpo"), details(self.test.table, scores))
        ranked = summary(self.test.table, scores)
        # the logistic one, whatever was learnt by: test_loss is that of the settings
        del ranked["loss"]
        tested = self._measured("test", self.test, logprobs)
        reference_means = self.test.reference.double().mean(dim=0).tolist()
        flat: dict[str, Value] = {
            **ranked,
            **{key: value for key, value in result.train.items() if key.startswith("train_")},
            **result.held_out,
            "test_loss": tested["test_loss"],
            "test_chosen_logprob": tested["test_chosen_logprob"],
            "test_rejected_logprob": tested["test_rejected_logprob"],
            "test_reference_chosen_logprob": reference_means[0],
            "test_reference_rejected_logprob": reference_means[1],
            "steps": len(self.plan),
            "pairs_trained": len(self.rows),
            "pairs_per_epoch": len(self.pairs.reader),
            "precision": self.engine.precision,
            "seconds": result.seconds,
            "tokens_per_second": result.tokens / result.seconds,
        }
        write_summary(workspace.metrics("dpo"), flat)
        run.checkpoints.finish()
