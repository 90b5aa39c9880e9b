"""The alignment tax (fig. 12): what each model knows, and its loss on held-out plain text."""

import gc
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.common.progress import Progress
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.opponents import model_directory
from rlhf.evaluation.plain_text import plain_text_loss
from rlhf.models.saving import load_tokenizer
from rlhf.settings.evaluation import Tax
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")


@dataclass(frozen=True)
class TaskKnowledge:
    """What a model knows of a task: share of right answers, its standard error, questions cut."""

    model: str
    task: str
    accuracy: float
    standard_error: float
    cut: int


@dataclass(frozen=True)
class PlainTextLoss:
    """A model's loss on held-out plain text, in nats per token, and the perplexity."""

    model: str
    loss: float
    perplexity: float


@dataclass(frozen=True)
class TaxSummary:
    """The alignment tax of all models.

    tax: model by model, task by task
    plain_text: of the models with our tokenizer; another's tokens are not to be compared
    """

    tax: list[TaskKnowledge]
    plain_text: list[PlainTextLoss]

    def as_json(self) -> dict[str, Any]:
        """As `metrics/evaluate_details.json` has it."""
        return asdict(self)


# of a run without `evaluate.tax`, and of a match
NO_TAX = TaxSummary([], [])


def alignment_tax(settings: Settings, workspace: Workspace, engine: TorchEngine) -> TaxSummary:
    """Measure every model of `evaluate.tax`, one at a time; NO_TAX where that is null.

    Raises SettingsError where lm-eval has no such task, or cannot find its data on this machine.
    """
    tax = settings.evaluate.tax
    if tax is None:
        return NO_TAX
    known: list[TaskKnowledge] = []
    plain_text: list[PlainTextLoss] = []
    vocabulary = load_tokenizer(workspace.model("sft")).get_vocab()
    progress = Progress("evaluate: alignment tax", len(tax.models))
    for name in tax.models:
        directory = model_directory(name, settings, workspace)
        if load_tokenizer(directory).get_vocab() == vocabulary:
            loss = plain_text_loss(directory, workspace, engine)
            plain_text.append(PlainTextLoss(name, loss, math.exp(loss)))
        known += _knowledge(name, directory, tax, settings, engine)
        progress.advance(1)
        # the model's memory, before the next one is loaded
        gc.collect()
    progress.close()
    return TaxSummary(known, plain_text)


def _knowledge(
    name: str, directory: Path, tax: Tax, settings: Settings, engine: TorchEngine
) -> list[TaskKnowledge]:
    # lm-eval takes seconds to import, and only this needs it
    from rlhf.evaluation.knowledge import measure_knowledge

    measured = measure_knowledge(directory, tax.tasks, tax.limit, engine, settings)
    rows = []
    for task, knowledge in measured.items():
        rows.append(TaskKnowledge(model=name, task=task, **asdict(knowledge)))
        if knowledge.cut:
            log.warning(
                "evaluate: %s: %d questions are longer than the window of %s and lost their start",
                task,
                knowledge.cut,
                name,
            )
    return rows
