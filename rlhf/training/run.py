"""What every training stage does around its loop: engine, fingerprint, checkpoints, evidence of a failed step."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.common.errors import TrainingError
from rlhf.common.files import write_json, writing
from rlhf.core.seeds import seed_everything
from rlhf.core.steps import StepLog
from rlhf.engine import Engine, NonFiniteError, Trainer, make_engine
from rlhf.engine.checkpoints import Checkpoints, fingerprint
from rlhf.engine.state import load_state, save_state
from rlhf.settings import Settings
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")


@dataclass(frozen=True)
class Resumed:
    """Where an interrupted run goes on: after `step`, with the loop's own state and the logs in `directory`."""

    step: int
    directory: Path
    loop: dict[str, Any]


@dataclass
class StageRun:
    """One run of a training stage in this process."""

    name: str
    settings: Settings
    workspace: Workspace
    engine: Engine
    checkpoints: Checkpoints
    seconds_before: float = 0.0  # spent by the runs that this one resumes
    began: float = field(default_factory=time.monotonic)

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and outputs."""
        return self.engine.rank == 0

    @property
    def seconds(self) -> float:
        """Training time so far, interrupted runs included."""
        return self.seconds_before + time.monotonic() - self.began

    def open_log(self, path: Path, resumed: Resumed | None) -> StepLog | None:
        """Start a log, or go on with it; None where this process writes none."""
        return StepLog(path, resumed.directory if resumed else None) if self.is_main else None

    def keep(
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
                save_state(directory, "loop", {**loop, "seconds": self.seconds})
            for log in logs:
                if log is not None:
                    log.keep(directory)

        with writing(self.checkpoints.directory):
            self.checkpoints.save(step, write)

    def resume(self, trainers: Mapping[str, Trainer]) -> Resumed | None:
        """Take up the last checkpoint, if there is one."""
        found = self.checkpoints.latest()
        if found is None:
            return None
        step, directory = found
        for name, trainer in trainers.items():
            trainer.load(directory / name)
        loop = load_state(directory, "loop")
        self.seconds_before = loop["seconds"]
        return Resumed(step, directory, loop)

    def stop_on_bad_step(
        self, step: int, error: NonFiniteError, batch: Mapping[str, Any]
    ) -> TrainingError:
        """Save the batch of a refused step for inspection and make the error that names it."""
        path = self.workspace.failures / f"{self.name}-step-{step}.rank-{self.engine.rank}.json"
        write_json(
            path, {"stage": self.name, "step": step, "problem": str(error), "batch": dict(batch)}
        )
        return TrainingError(
            f"{self.name}, step {step}: {error}; the step was not taken, its batch is in {path}. "
            f"A lower {self.name} learning rate or precision fp32 may help"
        )


def begin(
    name: str,
    settings: Settings,
    workspace: Workspace,
    sections: Sequence[str],
    inputs: Mapping[str, Path],
) -> StageRun:
    """Start the engine and find this stage's checkpoints: keyed by its settings' sections, its inputs and the code."""
    seed_everything(settings.seed, name)
    engine = make_engine(settings.engine)
    content = settings.model_dump(mode="json")
    chosen = {part: content[part] for part in ("seed", "engine", *sections)}
    key = fingerprint(name, chosen | {"precision": engine.precision}, inputs)
    return StageRun(
        name, settings, workspace, engine, Checkpoints(workspace.checkpoints, name, key)
    )


def evidence(table: Any, items: Sequence[int]) -> dict[str, Any]:
    """The identities of some rows of a prepared table, for the record of a refused step."""
    return {"rows": [str(table["id"].iloc[item]) for item in items]}
