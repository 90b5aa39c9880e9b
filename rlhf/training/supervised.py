"""The loop that supervised fine-tuning and reward models share: a fixed plan of batches, resumable."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.common.memory import release
from rlhf.common.progress import Progress
from rlhf.core.steps import StepLog, ends, read_steps, write_plot_data
from rlhf.core.tally import Tally
from rlhf.engine import Loss, NonFiniteError, Trainer
from rlhf.training.run import TrainingRun

# steps: seconds of work for milliseconds
RELEASE_EVERY = 10


class Task(ABC):
    """What is to be learnt.

    plan: indices of the rows of each optimiser step; tokens: real tokens of each row, for the rate
    shown: the metrics beside the progress bar
    """

    shown: ClassVar[tuple[str, ...]]
    plan: list[list[int]]
    tokens: list[int]
    evaluate_every: int
    checkpoint_every: int

    @abstractmethod
    def losses(self, rows: Sequence[int], tally: Tally) -> list[Loss]:
        """The micro-batch losses of one step in this process."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out rows."""

    @abstractmethod
    def evidence(self, rows: Sequence[int]) -> Mapping[str, Any]:
        """The identities of rows, for the record of a refused step."""


@dataclass(frozen=True)
class FitResult:
    """Held-out metrics before and after, training metrics, and what the whole of the training saw.

    train: means over the last tenth of the steps, in the main process; one step's batch says little
    """

    initial: dict[str, float]
    train: dict[str, float]
    held_out: dict[str, float]
    tokens: int
    seconds: float


def fit(run: TrainingRun, trainer: Trainer, task: Task) -> FitResult:
    """Train through the plan; an interrupted run goes on after its last checkpoint, same numbers."""
    # where to start
    trainers = {"trainer": trainer}
    resumed = run.resume(trainers)
    start = resumed.step if resumed else 0
    initial: dict[str, float] = resumed.loop["initial"] if resumed else {}
    train: dict[str, float] = {}
    held_out: dict[str, float] = {}
    total = len(task.plan)
    steps = run.open_log(run.workspace.steps(run.name), resumed)
    progress = Progress(run.name, total, start=start, show=run.is_main)
    try:
        # what the model knew before is in the log as step 0
        if resumed is None:
            initial = held_out = task.evaluate()
            _write(steps, 0, initial)
        for step in range(start + 1, total + 1):
            # 1. one optimiser step
            train = _step(run, trainer, task, step)
            progress.advance(1, {key: train[key] for key in task.shown})

            # 2. metrics
            last = step == total
            if step % task.evaluate_every == 0 or last:
                held_out = task.evaluate()
                _write(steps, step, {**train, **held_out})
            else:
                _write(steps, step, train)

            # 3. checkpoint
            if step % RELEASE_EVERY == 0:
                release()
            if step % task.checkpoint_every == 0 and not last:
                run.save_checkpoint(step, trainers, {"initial": initial}, [steps])
    finally:
        progress.close()
        if steps is not None:
            steps.close()

    # the summary tells the mean of the last tenth of the steps
    if run.is_main:
        log = run.workspace.steps(run.name)
        write_plot_data(log, run.workspace.plot_data(run.name))
        rows = [row for row in read_steps(log) if row["step"] > 0]
        train = {key: ends(rows, key)[1] for key in train}
    tokens = sum(task.tokens[row] for rows in task.plan for row in rows)
    return FitResult(initial, train, held_out, tokens, run.seconds)


def _step(run: TrainingRun, trainer: Trainer, task: Task, step: int) -> dict[str, float]:
    """Take a step of the plan (from 1); gives its metrics."""
    tally, rows = Tally(), task.plan[step - 1]
    rate = trainer.learning_rate()
    try:
        norm = trainer.step(task.losses(rows, tally))
    except NonFiniteError as error:
        raise run.refused_step(step, error, task.evidence(rows)) from error
    means = tally.means(run.engine.all_sum)
    return {**means, "gradient_norm": norm, "learning_rate": rate}


def _write(steps: StepLog | None, step: int, values: Mapping[str, float]) -> None:
    if steps is not None:
        steps.write(step, values)
