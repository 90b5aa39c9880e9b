"""Reward models: pairwise ranking loss, and imitation of the preferred answer (section 3.1, eq. 1-2).

`gold` is trained by the same code on pairs that `reward` never saw, under another seed, and only
judges.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf.batches.plan import Limits, epoch_plan, micro_batches
from rlhf.batches.tables import read_rows_of
from rlhf.common.errors import SettingsError
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.core.seeds import generator
from rlhf.core.tally import Tally
from rlhf.engine import Loss, share
from rlhf.models.heads import new_scalar_model, save_scalar_model
from rlhf.models.saving import load_tokenizer
from rlhf.models.trainable import choose_trainable
from rlhf.settings import Settings
from rlhf.settings.training import RewardModel
from rlhf.training.balanced import balanced
from rlhf.training.cut_answers import cut_answers, with_cut_answers
from rlhf.training.pair_reader import PairReader
from rlhf.training.ranking import PairScores, details, summary
from rlhf.training.run import TrainingRun, begin, row_ids
from rlhf.training.supervised import FitResult, Task, fit
from rlhf.workspace import Workspace

Role = Literal["reward", "gold"]
_LOSSES = ("pair_loss", "lm_loss")
TRAINING_SPLIT: dict[Role, str] = {"reward": "train", "gold": "gold"}


def train(settings: Settings, workspace: Workspace, role: Role = "reward") -> None:
    """Train models/<role> on its split of the `preferences` table; writes the model and its metrics."""
    section = section_of(settings, role)
    inputs = {
        "start": workspace.model(section.initial),
        "table": workspace.prepared / "preferences.parquet",
    }
    run = begin(role, settings, workspace, [role, "data"], inputs)
    task = RewardTraining(run, role)
    result = fit(run, task.trainer, task)
    task.save(result)


def train_gold(settings: Settings, workspace: Workspace) -> None:
    """Train models/gold."""
    train(settings, workspace, "gold")


def section_of(settings: Settings, role: Role) -> RewardModel:
    """The section `reward` or `gold`; raises SettingsError where it is null."""
    section = settings.reward if role == "reward" else settings.gold
    if section is None:
        raise SettingsError(f"{role}: null, so there is no such model to train")
    return section


class RewardTraining(Task):
    """The model and the pairs that it learns from."""

    shown = ("pair_loss", "train_accuracy")

    def __init__(self, run: TrainingRun, role: Role) -> None:
        settings, workspace = run.settings, run.workspace
        section = section_of(settings, role)
        start = workspace.model(section.initial)
        self.run = run
        self.role: Role = role
        self.engine = run.engine
        self.lm_coefficient = section.lm_coefficient
        self.micro_batch_tokens = section.micro_batch_tokens
        self.evaluate_every = section.evaluate_every
        self.checkpoint_every = section.checkpoint_every

        # 1. pairs
        self.tokenizer = load_tokenizer(start)
        self.rows = read_rows_of(workspace, "preferences", TRAINING_SPLIT[role])
        learnt = balanced(self.rows) if section.balance_kinds else self.rows
        if section.cut_answers:
            learnt = with_cut_answers(learnt, section.cut_answers, self._random("train"))
        self.pairs = self._reader(learnt)
        self.held_out = self._reader(read_rows_of(workspace, "preferences", "validation"))
        self.test = read_rows_of(workspace, "preferences", "test")

        # 2. the model, with a head of its own seed
        self.model = new_scalar_model(start, settings.seed, role, dtype=self.engine.dtype)
        layers, lora = section.trainable_layers, section.lora
        choose_trainable(self.model.lm, layers, lora, settings.seed, role)

        # 3. which pairs each step learns from
        self.tokens = self.pairs.tokens
        limits = Limits(section.batch_tokens, section.min_pairs, section.max_pairs)
        plan = epoch_plan(self.tokens, limits, section.epochs, settings.seed, role)
        self.plan = plan[: section.max_steps]
        self.trainer = self.engine.trainer(self.model, section.optimizer, len(self.plan))

    def losses(self, rows: Sequence[int], tally: Tally) -> list[Loss]:
        """L = -log sigmoid(r(chosen) - r(rejected)) + beta_rm (-log p(chosen)) (eq. 2).

        Means over the pairs, and over the chosen answers' tokens, of the whole batch.
        """
        chosen = self.pairs.table["chosen_ids"]
        tokens = sum(len(chosen.iloc[row]) for row in rows)
        parts = micro_batches(rows, self.tokens, self.micro_batch_tokens)
        own = share(parts, self.engine.rank, self.engine.world_size)
        loss = partial(self._loss, pairs=len(rows), tokens=tokens, tally=tally)
        return [partial(loss, part, weight) for part, weight in own]

    def _loss(
        self, part: list[int], weight: float, *, pairs: int, tokens: int, tally: Tally
    ) -> Tensor:
        with_lm = self.lm_coefficient > 0
        margins, nll = self.pairs.margins_and_nll(self.model, part, with_lm)
        ranking = -logsigmoid(margins)
        tally.add(weight, pair_loss=ranking, train_accuracy=(margins > 0).float())
        if with_lm:
            tally.add(weight, lm_loss=nll)
        # counts are those of the whole batch: micro-batches and processes only add up
        total = ranking.sum() / pairs + self.lm_coefficient * nll.sum() / tokens
        return weight * total

    def evaluate(self) -> dict[str, float]:
        """Accuracy, loss and margin on the validation split."""
        margins = torch.tensor(self._scores(self.held_out).margins)
        return {
            "validation_accuracy": float((margins > 0).double().mean()),
            "validation_loss": float(-logsigmoid(margins).mean()),
            "validation_margin": float(margins.mean()),
        }

    def evidence(self, rows: Sequence[int]) -> dict[str, Any]:
        """The identities of pairs."""
        return row_ids(self.pairs.table, rows)

    def save(self, result: FitResult) -> None:
        """Write model, details and summary; every process calls it."""
        run, workspace = self.run, self.run.workspace
        # 1. the loss leaves the origin of the scores open: it is put where held-out ones have mean 0
        origin, std = self._scores(self.held_out).mean_and_std
        scores = self._scores(self._reader(self.test)).shifted(-origin)
        accuracy_cut = self._accuracy_on_cut_answers()
        with self.trainer.gathered():
            if run.is_main:
                # the head's bias carries the shift: the file's scores are those of the metrics
                with torch.no_grad():
                    self.model.head.bias.sub_(origin)
                with staged_directory(workspace.model(self.role)) as directory:
                    save_scalar_model(self.model, self.tokenizer, directory, self.role, std)
        if not run.is_main:
            return

        # 2. how well it ranks the test pairs, and whole answers above cut ones
        write_json(workspace.details(self.role), details(self.test, scores))
        losses = {key: value for key, value in result.train.items() if key in _LOSSES}
        flat: dict[str, Value] = {
            **summary(self.test, scores),
            "accuracy_cut_answers": accuracy_cut,
            **result.held_out,
            **losses,
            "steps": len(self.plan),
            "pairs_trained": len(self.rows),
            "pairs_per_epoch": len(self.pairs),
            "precision": self.engine.precision,
            "seconds": result.seconds,
            "tokens_per_second": result.tokens / result.seconds,
        }
        write_summary(workspace.metrics(self.role), flat)
        run.checkpoints.finish()

    def _accuracy_on_cut_answers(self) -> float | None:
        """Of the test pairs' chosen answers, the share scored above itself cut off; None without any."""
        cut = cut_answers(self.test, self._random("test"))
        if cut.empty:
            return None
        margins = self._scores(self._reader(cut)).margins
        return sum(margin > 0 for margin in margins) / len(margins)

    def _random(self, split: str) -> torch.Generator:
        return generator(self.run.settings.seed, self.role, "cut answers", split)

    def _reader(self, table: pd.DataFrame) -> PairReader:
        return PairReader(table, int(self.tokenizer.pad_token_id), self.engine)

    def _scores(self, reader: PairReader) -> PairScores:
        # without gradients twice as much fits
        return reader.score_all(self.model, 2 * self.micro_batch_tokens)
