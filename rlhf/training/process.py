"""The process reward model: whether a step is right, read at the step's last token.

Binary cross-entropy on hard or soft labels (Math-Shepherd, arXiv 2312.08935, eq. 2), as a language
model with one new head. Steps without a label are read by no loss.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from rlhf.batches.plan import Limits, epoch_plan, micro_batches
from rlhf.batches.tables import read_rows_of
from rlhf.common.errors import SettingsError
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.core.tally import Tally
from rlhf.engine import Loss, share
from rlhf.models.heads import new_scalar_model, save_process_model
from rlhf.models.saving import load_tokenizer
from rlhf.models.trainable import choose_trainable
from rlhf.ppo.steps import step_loss
from rlhf.settings import Settings
from rlhf.settings.training import ProcessRewardModel
from rlhf.training.run import TrainingRun, begin, row_ids
from rlhf.training.solution_reader import SolutionReader
from rlhf.training.step_ranking import (
    RIGHT,
    StepScores,
    calibration,
    most_wrong,
    ranking_figures,
    step_figures,
)
from rlhf.training.supervised import FitResult, Task, fit
from rlhf.workspace import Workspace


def train(settings: Settings, workspace: Workspace) -> None:
    """Train models/process on the `steps` table; writes the model and metrics/process*.json(l)."""
    section = section_of(settings)
    inputs = {
        "start": workspace.model(section.initial),
        "table": workspace.prepared / "steps.parquet",
    }
    run = begin("process", settings, workspace, ["process", "data"], inputs)
    task = ProcessTraining(run)
    result = fit(run, task.trainer, task)
    task.save(result)


def section_of(settings: Settings) -> ProcessRewardModel:
    """The section `process`; raises SettingsError where it is off."""
    if settings.process is None:
        raise SettingsError("process: null; the stage process needs its section")
    return settings.process


class ProcessTraining(Task):
    """The model and the answers that it learns from."""

    shown = ("step_loss", "train_accuracy")

    def __init__(self, run: TrainingRun) -> None:
        settings, workspace = run.settings, run.workspace
        section = section_of(settings)
        start = workspace.model(section.initial)
        self.run = run
        self.engine = run.engine
        self.micro_batch_tokens = section.micro_batch_tokens
        self.evaluate_every = section.evaluate_every
        self.checkpoint_every = section.checkpoint_every

        # 1. answers in steps
        self.tokenizer = load_tokenizer(start)
        self.answers = self._reader("train")
        # the one that prepare put between all steps
        self.separator = str(self.answers.table["separator"].iloc[0])
        self.held_out = self._reader("validation")
        self.test = self._reader("test")

        # 2. the model, with a head of its own seed
        self.model = new_scalar_model(start, settings.seed, "process", dtype=self.engine.dtype)
        layers, lora = section.trainable_layers, section.lora
        choose_trainable(self.model.lm, layers, lora, settings.seed, "process")

        # 3. which answers each step learns from
        self.tokens = self.answers.tokens
        limits = Limits(section.batch_tokens)
        plan = epoch_plan(self.tokens, limits, section.epochs, settings.seed, "process")
        self.plan = plan[: section.max_steps]
        self.trainer = self.engine.trainer(self.model, section.optimizer, len(self.plan))

    def losses(self, rows: Sequence[int], tally: Tally) -> list[Loss]:
        """L = -y log sigma(z) - (1 - y) log(1 - sigma(z)), a mean over the labelled steps of the batch."""
        count = sum(self.answers.labelled[row] for row in rows)
        parts = micro_batches(rows, self.tokens, self.micro_batch_tokens)
        own = share(parts, self.engine.rank, self.engine.world_size)
        return [partial(self._loss, part, weight, count, tally) for part, weight in own]

    def _loss(self, part: list[int], weight: float, count: int, tally: Tally) -> Tensor:
        logits, labels = self.answers.logits_and_labels(self.model, part)
        known = ~labels.isnan()
        logits, labels = logits[known], labels[known]
        losses = step_loss(logits, labels)
        right = (logits >= 0) == (labels >= RIGHT)
        tally.add(weight, step_loss=losses, train_accuracy=right.float())
        return weight * losses.sum() / count

    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy and AUC of the steps of the validation split."""
        figures = step_figures(self._scores(self.held_out))
        shown = {key: figures[key] for key in ("loss", "accuracy", "auc")}
        # where all are right or all wrong there is no AUC
        return {f"validation_{key}": value for key, value in shown.items() if value is not None}

    def evidence(self, rows: Sequence[int]) -> dict[str, Any]:
        """The identities of answers."""
        return row_ids(self.answers.table, rows)

    def save(self, result: FitResult) -> None:
        """Write model, details and summary; every process calls it."""
        run, workspace = self.run, self.run.workspace
        scores = self._scores(self.test)
        with self.trainer.gathered():
            if run.is_main:
                with staged_directory(workspace.model("process")) as directory:
                    save_process_model(self.model, self.tokenizer, directory, self.separator)
        if not run.is_main:
            return

        found = {
            "calibration": calibration(scores),
            "most_wrong": most_wrong(self.test.table, self._texts(self.test), scores),
        }
        write_json(workspace.details("process"), found)
        prompts = [tuple(ids) for ids in self.test.table["prompt_ids"]]
        _, labels = scores.labelled
        flat: dict[str, Value] = {
            **step_figures(scores),
            **ranking_figures(prompts, scores),
            **result.held_out,
            "step_loss": result.train["step_loss"],
            # what a model that calls every step right would have for its accuracy
            "right_fraction": float((labels >= RIGHT).mean()),
            "steps": len(self.plan),
            "answers_trained": len(self.answers),
            "answers_tested": len(self.test),
            "labels_trained": sum(self.answers.labelled),
            "labels_tested": len(labels),
            "precision": self.engine.precision,
            "seconds": result.seconds,
            "tokens_per_second": result.tokens / result.seconds,
        }
        write_summary(workspace.metrics("process"), flat)
        run.checkpoints.finish()

    def _reader(self, split: str) -> SolutionReader:
        table = read_rows_of(self.run.workspace, "steps", split)
        return SolutionReader(table, int(self.tokenizer.pad_token_id), self.engine)

    def _texts(self, reader: SolutionReader) -> list[list[str]]:
        """The text of each step of each answer."""
        texts = []
        for ids, ends in zip(reader.table["response_ids"], reader.table["step_ends"], strict=True):
            starts = [0, *(end + 1 for end in ends[:-1])]
            steps = [ids[start : end + 1] for start, end in zip(starts, ends, strict=True)]
            decoded = self.tokenizer.batch_decode(steps, skip_special_tokens=True)
            texts.append([text.strip() for text in decoded])
        return texts

    def _scores(self, reader: SolutionReader) -> StepScores:
        # without gradients twice as much fits
        return reader.score_all(self.model, 2 * self.micro_batch_tokens)
