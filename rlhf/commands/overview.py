"""What the stages have found so far: their key metrics, read from the metrics files."""

from dataclasses import dataclass
from typing import Any

from rlhf.common.files import read_json
from rlhf.stages import STAGES
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class StageState:
    """Whether a stage has run in this workspace, and what it measured."""

    name: str
    done: bool
    metrics: dict[str, Any]

    def chosen(self, everything: bool) -> dict[str, Any]:
        """The key metrics that are there, or all of them."""
        keys = (
            self.metrics
            if everything
            else [key for key in STAGES[self.name].key_metrics if key in self.metrics]
        )
        return {key: self.metrics[key] for key in keys}


def stage_states(workspace: Workspace) -> list[StageState]:
    """The stages in order; raises DataError for a metrics file that is not readable."""
    return [_state(name, workspace) for name in STAGES]


def _state(name: str, workspace: Workspace) -> StageState:
    if name == "report":
        return StageState(name, workspace.report.is_file(), {})
    path = workspace.metrics(name)
    done = path.is_file()
    return StageState(name, done, read_json(path) if done else {})


def spoken(value: Any) -> str:
    """A metric as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
