"""The policy loop: draw and score, watch, validate, learn, log. It knows no algorithm by name."""

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any

import torch

from rlhf.algorithms.base import Algorithm, Context, Inputs, Means, Signals, Step, Update, Updates
from rlhf.common.errors import RlhfError
from rlhf.common.files import write_json
from rlhf.common.memory import release
from rlhf.common.metrics import Value, write_summary
from rlhf.common.progress import Progress
from rlhf.common.shown import at_iteration
from rlhf.core.seeds import generator
from rlhf.core.steps import StepLog, read_steps, write_plot_data
from rlhf.core.tally import Tally
from rlhf.engine import NonFiniteError
from rlhf.models.saving import load_tokenizer
from rlhf.registry import ALGORITHMS, find
from rlhf.settings import Settings
from rlhf.settings.advice import advice
from rlhf.settings.reads import OPTIONAL_MODELS
from rlhf.stages import STAGES
from rlhf.training.lengthening import ANY_VALUE, lengthened, lengthened_from
from rlhf.training.monitor import Watch
from rlhf.training.run import TrainingRun, begin
from rlhf.training.sources import RunSources
from rlhf.training.summary import summarise, verdict
from rlhf.training.validation import Validator, reward_histograms
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")

# of an algorithm's curves, those beside the progress bar
_SHOWN = 3
# share of responses that end by themselves below which that is told
_FEW_END = 0.5


def train(settings: Settings, workspace: Workspace) -> None:
    """Improve the policy on the `prompts` table; writes models/policy and metrics/ppo*.json(l)."""
    kind = find(ALGORITHMS, settings.ppo.algorithm)
    inputs = kind.inputs(settings)
    _refuse_unlisted(inputs, settings.ppo.algorithm)
    paths = inputs.paths(workspace)
    run = begin("ppo", settings, workspace, ["ppo", "data"], paths, any_value=ANY_VALUE)
    if run.is_main:
        for sentence in advice(settings.ppo):
            log.warning("%s", sentence)
    tokenizer = load_tokenizer(workspace.model("sft"))
    algorithm = kind(Context(settings, workspace, run.engine, tokenizer))
    sources = RunSources(run, algorithm.models, tokenizer)
    validator = Validator(run, algorithm, sources, tokenizer)
    Loop(run, algorithm, sources, validator).train()


def _refuse_unlisted(inputs: Inputs, algorithm: str) -> None:
    """DVC would not see a change of what the stage does not list."""
    stage = STAGES["ppo"]
    # A table that a listed model is made from (sft, preferences) changes the model, which DVC sees.
    # It would miss a changed row that the model's stage never came to (reward.max_steps, part of
    # an epoch); resume checkpoints are keyed by the table itself.
    makers = [maker for maker in STAGES.values() if maker.model in stage.models]
    tables = {*stage.tables, *(table for maker in makers for table in maker.tables)}
    # models of optional stages it sees in the folder of the algorithm's code
    models = {*stage.models, *OPTIONAL_MODELS.get(algorithm, ())}
    missing = [
        *(f"table {name}" for name in inputs.tables if name not in tables),
        *(f"model {name}" for name in inputs.models if name not in models),
    ]
    if missing:
        raise RlhfError(
            f"rlhf/stages.py: algorithm {algorithm} reads {', '.join(missing)}, "
            "which the row of stage ppo does not name; add it there and run `make dvc.yaml`"
        )


class Loop:
    """State of one policy run: the algorithm, what it draws on, and what was seen so far."""

    def __init__(
        self, run: TrainingRun, algorithm: Algorithm, sources: RunSources, validator: Validator
    ) -> None:
        self.run = run
        self.engine = run.engine
        self.section = run.settings.ppo
        self.algorithm = algorithm
        self.trainers = algorithm.models.trainers
        self.sources = sources
        self.validator = validator
        self.watch = Watch(self.section.alarm.patience)
        # the numbers of iterations that the run was asked for in turn
        self.lengths = [self.section.iterations]
        self._told_unfinished = False

    def train(self) -> None:
        """Run all iterations, from the last checkpoint on if there is one, and write the outputs."""
        # 1. where to start; iterations before the policy learns have negative numbers
        run, iterations = self.run, self.section.iterations
        warmup = self.algorithm.warmup_iterations
        resumed = run.resume(self.trainers, until=iterations)
        if resumed is not None:
            self._load_state(resumed.loop)
            self.lengths = lengthened(self.lengths, self.section, resumed.step)
        start = -warmup if resumed is None else resumed.step
        steps = run.open_log(run.workspace.steps("ppo"), resumed)
        samples = run.open_log(run.workspace.samples("ppo"), resumed)
        progress = Progress("ppo", iterations + warmup, start=start + warmup, show=run.is_main)
        last = iterations

        # 2. iterations
        try:
            for iteration in range(start, iterations):
                metrics, stop = self._iteration(iteration, samples)
                if steps is not None:
                    steps.write(iteration, metrics)
                shown = self.algorithm.curves[:_SHOWN]
                progress.advance(1, {key: float(metrics.get(key) or 0.0) for key in shown})
                release()
                if stop:
                    last = iteration
                    break
                # a checkpoint is named by the iteration that comes next
                following = iteration + 1
                if self._is_checkpoint(following):
                    run.save_checkpoint(following, self.trainers, self._state(), [steps, samples])
                    self.validator.checkpointed()
            # 3. the policy as the last update left it
            final = self.validator.validate(last, self.watch.sound, samples)
            if steps is not None:
                steps.write(last, final)
        finally:
            progress.close()
            for stream in (steps, samples):
                if stream is not None:
                    stream.close()
        self._finish()

    def _is_checkpoint(self, following: int) -> bool:
        """Whether one is due; the last stands before the final validation, to be gone on from."""
        if following == self.section.iterations:
            return self.section.keep_checkpoint
        return following % self.section.checkpoint_every == 0

    # -- an iteration ------------------------------------------------------------------------------

    def _iteration(self, iteration: int, samples: StepLog | None) -> tuple[dict[str, Value], bool]:
        """One row of the step log, and whether the alarm ends the run here."""
        section, sources = self.section, self.sources
        metrics: dict[str, Value] = {}
        stop, learning_seconds = False, 0.0
        validates = iteration >= 0 and iteration % section.samples_every == 0

        # 1. draw and score: as far as the first update
        sources.begin(iteration + self.algorithm.warmup_iterations)
        began = monotonic()
        updates = self.algorithm.updates(sources, iteration)
        update: Update[Any] | None = next(updates, None)
        score_seconds = monotonic() - began - sources.seconds

        while update is not None:
            # 2. watch, before learning like all else in this row
            _log(metrics, update, update.metrics)
            self._tell_unfinished(iteration, update.signals)
            stop = self._is_alarmed(iteration, update.signals) and section.alarm.action != "warn"
            if stop:
                break

            # 3. validate once: fixed prompts, samples
            if validates:
                metrics |= self.validator.validate(iteration, self.watch.sound, samples)
                validates = False

            # 4. learn; the next update may draw and score anew
            began = monotonic()
            shown, rates = self._learn(iteration, update)
            learning_seconds += monotonic() - began
            _log(metrics, update, {**rates, **shown})
            update = _following(updates, shown)

        updates.close()
        # where there was nothing to learn
        if validates and not stop:
            metrics |= self.validator.validate(iteration, self.watch.sound, samples)
        speed = self._speed(learning_seconds) | {"score_seconds": score_seconds}
        return metrics | speed, stop

    def _learn(self, iteration: int, update: Update[Any]) -> tuple[Means, dict[str, Value]]:
        """Learn epoch after epoch, each in a new order of the mini-batches; their composition stays.

        Gives the means over all steps, and rates and gradient norms.
        """
        tally, norms = Tally(), {role: list[float]() for role in update.roles}
        rates = {role: self.trainers[role].learning_rate() for role in update.roles}
        count = len(update.mini_batches)
        for epoch in range(update.epochs):
            for place, index in enumerate(self._order(iteration, update, epoch)):
                batch = update.mini_batches[index]
                for role in update.roles:
                    step = Step(role, batch, epoch * count + place)
                    norms[role].append(self._step(iteration, update, step))
                    tally.absorb(step.tally)
                    if update.after_step is not None:
                        update.after_step(role)

        # the largest of any process; means are over all of them
        for peaks in self.engine.all_gather([dict(tally.peaks)]):
            tally.peak(**peaks)
        metrics: dict[str, Value] = {}
        for role in update.roles:
            metrics[f"{role}_learning_rate"] = rates[role]
            metrics[f"{role}_gradient_norm"] = sum(norms[role]) / len(norms[role])
        return tally.means(self.engine.all_sum), metrics

    def _order(self, iteration: int, update: Update[Any], epoch: int) -> list[int]:
        names = ["+".join(update.roles)]
        if update.name:
            names.append(update.name)
        random = generator(self.run.settings.seed, "order", iteration, *names, epoch)
        order: list[int] = torch.randperm(len(update.mini_batches), generator=random).tolist()
        return order

    def _step(self, iteration: int, update: Update[Any], step: Step[Any]) -> float:
        """One optimiser step; gives the gradient norm before clipping."""
        try:
            return self.trainers[step.role].step(update.losses(step))
        except NonFiniteError as error:
            evidence = {"trainer": step.role, **update.evidence(step)}
            raise self.run.refused_step(iteration, error, evidence) from error

    def _is_alarmed(self, iteration: int, signals: Signals | None) -> bool:
        """Take an update's signals in; whether the policy has collapsed. Logged once."""
        before = self.watch.collapse
        self.watch.see(iteration, signals)
        if before is None and self.watch.collapse is not None and self.run.is_main:
            log.warning("ppo: collapse %s: %s", at_iteration(iteration), self.watch.describe())
        return self.watch.collapse is not None

    def _tell_unfinished(self, iteration: int, signals: Signals | None) -> None:
        """Say once that most responses are cut off: their scores mean little."""
        if signals is None or signals.finished >= _FEW_END or self._told_unfinished:
            return
        self._told_unfinished = True
        if self.run.is_main:
            log.warning(
                "ppo: %s, %.0f %% of the responses end by themselves, the others run into "
                "max_response_tokens; raise it, or let a missing end cost something: missing-end in ppo.rewards",
                at_iteration(iteration),
                100 * signals.finished,
            )

    def _speed(self, update_seconds: float) -> dict[str, Value]:
        seconds, tokens = self.sources.seconds, self.sources.tokens
        speed: dict[str, Value] = {"rollout_seconds": seconds, "update_seconds": update_seconds}
        if tokens:
            speed["tokens"] = tokens
            speed["rollout_tokens_per_second"] = tokens / seconds
            speed["update_tokens_per_second"] = tokens / max(update_seconds, 1e-9)
        return speed

    # -- state and outputs -------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm.state(),
            "watched": self.watch.state(),
            "validation": self.validator.state(),
            "lengths": self.lengths,
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        self.algorithm.load_state(state["algorithm"])
        self.watch.load_state(state["watched"])
        self.validator.load_state(state["validation"])
        self.lengths = state["lengths"]

    def _finish(self) -> None:
        """Write the policy and what the run is summed up by."""
        run, workspace, section = self.run, self.run.workspace, self.section
        # 1. the policy that is kept
        returned = self.watch.collapse is not None and section.alarm.action == "return"
        best = self.validator.best if returned or section.keep == "best" else None
        self.validator.save_policy(workspace.model("policy"), best=best is not None)
        if not run.is_main:
            return

        # 2. what the logs come to, without the iterations before the policy learnt
        rows = [row for row in read_steps(workspace.steps("ppo")) if row["step"] >= 0]
        samples = read_steps(workspace.samples("ppo"))
        histograms = {"reward_histograms": reward_histograms(samples)}
        write_json(workspace.details("ppo"), histograms)
        write_plot_data(workspace.steps("ppo"), workspace.plot_data("ppo"))
        summary = summarise(rows, self.algorithm.curves, self.algorithm.peaks, run.seconds)
        summary |= verdict(self.watch, best, rows)
        summary |= lengthened_from(self.lengths, section)
        summary["precision"] = self.engine.precision
        write_summary(workspace.metrics("ppo"), summary)
        run.checkpoints.finish(keep=section.keep_checkpoint)


def _log(row: dict[str, Value], update: Update[Any], metrics: Mapping[str, Value]) -> None:
    """Take an update's metrics into the iteration's row, under the update's name if it has one."""
    prefix = f"{update.name}_" if update.name else ""
    named = {f"{prefix}{key}": value for key, value in metrics.items()}
    if twice := row.keys() & named.keys():
        raise ValueError(f"two updates of an iteration log {sorted(twice)}: one needs a name")
    row |= named


def _following(updates: Updates, shown: Means) -> Update[Any] | None:
    """The next update, once what the last one showed is told; None after the last."""
    try:
        return updates.send(shown)
    except StopIteration:
        return None
