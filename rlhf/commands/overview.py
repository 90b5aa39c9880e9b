"""What the stages have measured so far, read from the metrics files."""

from dataclasses import dataclass
from typing import Any

from rlhf.common.files import read_json
from rlhf.stage import Stage
from rlhf.stages import STAGES
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class StageState:
    """Whether a stage has run in this workspace, and what it measured; one that is off measures nothing."""

    name: str
    done: bool
    metrics: dict[str, Any]

    @property
    def off(self) -> bool:
        """Whether the settings left it out when it was its turn."""
        return self.done and STAGES[self.name].optional is not None and not self.metrics

    @property
    def key_metrics(self) -> dict[str, Any]:
        """Those of its metrics that the table of stages calls key."""
        keys = STAGES[self.name].key_metrics
        return {key: self.metrics[key] for key in keys if key in self.metrics}


def stage_states(workspace: Workspace) -> list[StageState]:
    """The stages in order; raises DataError for a metrics file that is not readable."""
    return [_state(stage, workspace) for stage in STAGES.values()]


def _state(stage: Stage, workspace: Workspace) -> StageState:
    # the report measures nothing
    if not stage.summary:
        written = [workspace.root / path for path in stage.outs]
        return StageState(stage.name, all(path.exists() for path in written), {})
    path = workspace.metrics(stage.name)
    done = path.is_file()
    return StageState(stage.name, done, read_json(path) if done else {})
