"""What the stages measured: the key figures as pages show them, and those by which one tells models apart."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.common.files import read_json
from rlhf.common.shown import format_metric
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.metric_names import key_figures

# of a model's answers, as the details of `evaluate` have them
_OF_ANSWERS = ("gold_score", "response_length", "finished")
_RATES = ("win_rate", "win_rate_length_controlled")


def shown_figures(workspace: Workspace, stages: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Give (stage, figure, text) of every key figure that the stages have measured, in this order."""
    for stage in stages:
        path = workspace.metrics(stage)
        summary = read_json(path) if path.exists() else {}
        for key, value in key_figures(stage, summary).items():
            if value is not None:
                yield stage, key, format_metric(value)


def stage_figures(root: Path, stage: str) -> dict[str, Any]:
    """The key metrics of a stage, but for its time: what they say of the model that it wrote."""
    summary = read_json(Workspace(root).metrics(stage))
    keys = [key for key in STAGES[stage].key_metrics if key != "seconds"]
    return {key: summary.get(key) for key in keys}


def evaluation_figures(details: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Model -> what `evaluate` found: its answers, and its win rates over others with their intervals."""
    figures: dict[str, dict[str, Any]] = {}
    for row in details["models"]:
        figures[row["model"]] = {key: row.get(key) for key in _OF_ANSWERS}
    for row in details["tax"]:
        key = f"accuracy_{row['task']}"
        figures.setdefault(row["model"], {})[key] = row["accuracy"]
    for comparison in details["comparisons"]:
        own = figures.setdefault(comparison["challenger"], {})
        for rate in _RATES:
            for end in ("", "_low", "_high"):
                name = f"{rate}_over_{comparison['baseline']}_by_{comparison['judge']}{end}"
                own[name] = comparison["metrics"].get(f"{rate}{end}")
    return figures
