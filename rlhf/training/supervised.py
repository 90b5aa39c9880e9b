"""The loop that supervised fine-tuning and reward models share: a fixed plan of batches, resumable at any step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf.common.memory import release
from rlhf.common.progress import Progress
from rlhf.core.steps import StepLog, ends, read_steps, write_plot_data
from rlhf.core.tally import Tally
from rlhf.engine import NonFiniteError, Trainer
from rlhf.training.run import StageRun

Loss = Callable[[], Tensor]
RELEASE_EVERY = 10  # steps: seconds of work for milliseconds


@dataclass(frozen=True)
class Job:
    """What is to be learnt.

    plan: indices of the rows of each optimiser step; tokens: real tokens of each row (for the rate)
    losses: the micro-batch losses of one step in this process; evaluate: metrics on held-out rows
    describe: identities of rows, for the record of a refused step; shown: the metrics beside the progress bar
    """

    plan: Sequence[Sequence[int]]
    tokens: Sequence[int]
    losses: Callable[[Sequence[int], Tally], list[Loss]]
    evaluate: Callable[[], dict[str, float]]
    describe: Callable[[Sequence[int]], Mapping[str, Any]]
    evaluate_every: int
    checkpoint_every: int
    shown: Sequence[str] = ("train_loss",)


@dataclass(frozen=True)
class Outcome:
    """Held-out metrics before and after, training metrics, and what the whole of the training saw.

    train: means over the last tenth of the steps, in the main process; one step's batch says little
    """

    initial: dict[str, float]
    train: dict[str, float]
    held_out: dict[str, float]
    tokens: int
    seconds: float


def fit(run: StageRun, trainer: Trainer, job: Job) -> Outcome:
    """Train through the plan; an interrupted run goes on after its last checkpoint and gives the same numbers."""
    trainers = {"trainer": trainer}
    resumed = run.resume(trainers)
    start = resumed.step if resumed else 0
    initial: dict[str, float] = resumed.loop["initial"] if resumed else {}
    train: dict[str, float] = {}
    held_out: dict[str, float] = {}
    total = len(job.plan)
    steps = run.open_log(run.workspace.steps(run.name), resumed)
    progress = Progress(run.name, total, start=start, show=run.is_main)
    try:
        if resumed is None:
            initial = held_out = job.evaluate()
            _write(steps, 0, initial)
        for step in range(start + 1, total + 1):
            # 1. one optimiser step
            tally, items = Tally(), job.plan[step - 1]
            rate = trainer.learning_rate()
            try:
                norm = trainer.step(job.losses(items, tally))
            except NonFiniteError as error:
                raise run.stop_on_bad_step(step, error, job.describe(items)) from error
            # 2. metrics
            train = {
                **tally.means(run.engine.all_sum),
                "gradient_norm": norm,
                "learning_rate": rate,
            }
            last = step == total
            if step % job.evaluate_every == 0 or last:
                held_out = job.evaluate()
                _write(steps, step, {**train, **held_out})
            else:
                _write(steps, step, train)
            progress.advance(1, {key: train[key] for key in job.shown})
            # 3. checkpoint
            if step % RELEASE_EVERY == 0:
                release()
            if step % job.checkpoint_every == 0 and not last:
                run.keep(step, trainers, {"initial": initial}, [steps])
    finally:
        progress.close()
        if steps is not None:
            steps.close()
    if run.is_main:
        log = run.workspace.steps(run.name)
        write_plot_data(log, run.workspace.plot_data(run.name))
        rows = [row for row in read_steps(log) if row["step"] > 0]
        train = {key: ends(rows, key)[1] for key in train}
    return Outcome(
        initial,
        train,
        held_out,
        sum(job.tokens[item] for items in job.plan for item in items),
        run.seconds,
    )


def _write(steps: StepLog | None, step: int, values: Mapping[str, float]) -> None:
    if steps is not None:
        steps.write(step, values)
