"""What every training stage does around its loop: engine, fingerprint, checkpoints, evidence."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.common.errors import TrainingError
from rlhf.common.files import write_json, writing
from rlhf.common.shown import at_iteration
from rlhf.core.seeds import seed_everything
from rlhf.core.steps import StepLog
from rlhf.engine import Engine, NonFiniteError, Trainer, make_engine
from rlhf.engine.checkpoints import REGISTRY, Checkpoints, fingerprint
from rlhf.engine.state import load_state, save_state
from rlhf.registry import ENGINES, module_of
from rlhf.settings import Settings
from rlhf.settings.section import Section
from rlhf.settings.training import Lora
from rlhf.stages import find_stage
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")


@dataclass(frozen=True)
class Resumed:
    """Where an interrupted run goes on: after `step`, with the loop's own state, logs in `directory`."""

    step: int
    directory: Path
    loop: dict[str, Any]


@dataclass
class TrainingRun:
    """One run of a training stage in this process.

    seconds_before: spent by the runs that this one resumes
    """

    name: str
    settings: Settings
    workspace: Workspace
    engine: Engine
    checkpoints: Checkpoints
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    # -- where this process stands -----------------------------------------------------------------

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and outputs."""
        return self.engine.rank == 0

    @property
    def seconds(self) -> float:
        """Training time so far, interrupted runs included."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def _machine(self) -> str:
        """Who computes, as it is told: numbers depend on it by their rounding alone."""
        engine, count = self.settings.engine, self.engine.world_size
        kind = f"ZeRO-{engine.zero_stage}" if engine.kind == "deepspeed" else engine.kind
        section = getattr(self.settings, self.name)
        sizes = [f", {key} {getattr(section, key)}" for key in _dividing_work(section)]
        return f"{count} {'process' if count == 1 else 'processes'} of {kind}{''.join(sizes)}"

    # -- logs and checkpoints ----------------------------------------------------------------------

    def open_log(self, path: Path, resumed: Resumed | None) -> StepLog | None:
        """Start a log, or go on with it; None where this process writes none."""
        if not self.is_main:
            return None
        return StepLog(path, resumed.directory if resumed else None)

    def save_checkpoint(
        self,
        step: int,
        trainers: Mapping[str, Trainer],
        loop: Mapping[str, Any],
        logs: Sequence[StepLog | None],
    ) -> None:
        """Write the checkpoint of `step`: every trainer, the loop's own state and the logs so far."""

        def write(directory: Path) -> None:
            for name, trainer in trainers.items():
                trainer.save(directory / name)
            if self.is_main:
                own = {"seconds": self.seconds, "written_by": self._machine}
                save_state(directory, "loop", {**loop, **own})
            for one in logs:
                if one is not None:
                    one.copy_to(directory)

        # a full disk is told as such
        with writing(self.checkpoints.directory):
            self.checkpoints.save(step, write)

    def resume(self, trainers: Mapping[str, Trainer], until: int | None = None) -> Resumed | None:
        """Take up the last checkpoint, if there is one; none beyond step `until`."""
        latest = self.checkpoints.latest(until)
        if latest is None:
            return None
        step, directory = latest
        for name, trainer in trainers.items():
            trainer.load(directory / name)
        loop = load_state(directory, "loop")
        if self.is_main and loop["written_by"] != self._machine:
            log.info(
                "%s was written by %s; it goes on with %s: the same numbers but for rounding",
                directory,
                loop["written_by"],
                self._machine,
            )
        self.seconds_before = loop["seconds"]
        return Resumed(step, directory, loop)

    def refused_step(
        self, step: int, error: NonFiniteError, batch: Mapping[str, Any]
    ) -> TrainingError:
        """Save the batch of a refused step for inspection, and make the error that names it."""
        # a file for each process: more than one may have refused
        path = self.workspace.failures / f"{self.name}-step-{step}.rank-{self.engine.rank}.json"
        content = {"stage": self.name, "step": step, "problem": str(error), "batch": dict(batch)}
        write_json(path, content)
        where = f"step {step}" if step >= 0 else at_iteration(step)
        return TrainingError(
            f"{self.name}, {where}: {error}; the step was not taken, its batch is in {path}. "
            f"A lower {self.name} learning rate or precision fp32 may help"
        )


def begin(
    name: str,
    settings: Settings,
    workspace: Workspace,
    sections: Sequence[str],
    inputs: Mapping[str, Path],
    any_value: Sequence[str] = (),
) -> TrainingRun:
    """Start the engine and find this stage's checkpoints.

    They are keyed by the settings' `sections`, the inputs, and the code that the stage runs: its
    files, and what the settings' names stand for. Section `engine` is none of it but for the number
    format, and neither is the size of micro-batches: no more than rounding depends on these, so another
    engine goes on, in other micro-batches.

    any_value: dotted keys of the stage's own section that no step depends on
    """
    seed_everything(settings.seed, name)
    engine = make_engine(settings.engine)
    # what the settings' keys mean on this machine counts, not only what they say
    content = settings.model_dump(mode="json")
    chosen = {part: content[part] for part in ("seed", *sections)}
    for key in (*any_value, *_dividing_work(getattr(settings, name))):
        _leave_out(chosen[name], key)
    chosen["precision"] = engine.precision
    stage = find_stage(name)
    # a name may come to mean another class of the same file; any engine may have run before
    places = dict.fromkeys([*ENGINES.items(), *stage.chosen(settings)])
    chosen[REGISTRY] = list(places)
    modules = [*stage.modules(settings), *(module_of(ENGINES, kind) for kind in ENGINES)]

    # input models are large: one process hashes them, the others are given the key
    prints = []
    if engine.rank == 0:
        prints = [fingerprint(name, chosen, inputs, modules)]
    (found,) = engine.all_gather(prints)
    checkpoints = Checkpoints(workspace.checkpoints, name, found.key, found.parts)
    return TrainingRun(name, settings, workspace, engine, checkpoints)


def _dividing_work(section: Section) -> list[str]:
    """The keys of a section that divide a step's work, where no more than rounding depends on them.

    None where adapters have dropout: each micro-batch draws its own.
    """
    lora: Lora | None = getattr(section, "lora", None)
    if lora is not None and lora.dropout > 0:
        return []
    return [key for key in ("micro_batch", "micro_batch_tokens") if hasattr(section, key)]


def _leave_out(section: dict[str, Any], key: str) -> None:
    """Remove a dotted key; a section in it may be null, and `*` stands for all names."""
    first, _, rest = key.partition(".")
    for name in list(section) if first == "*" else [first]:
        if not rest:
            del section[name]
        elif section[name] is not None:
            _leave_out(section[name], rest)


def row_ids(table: Any, rows: Sequence[int]) -> dict[str, Any]:
    """The identities of some rows of a prepared table, for the record of a refused step."""
    return {"rows": [str(table["id"].iloc[row]) for row in rows]}
