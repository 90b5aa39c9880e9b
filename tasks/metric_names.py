"""What a metric is called in MLflow, whose charts are grouped by what stands before the last slash.

A stage's important curves are `ppo/reward`, `ppo/kl`; its other ones `ppo/more/clip_fraction`; its
figures at the end `summary/kl_last`. The parent run of an execution has `ppo/kl_last`.
"""

from collections.abc import Mapping
from typing import Any

from rlhf.stages import STAGES

# figures at the end of a run
SUMMARY = "summary"
# yes or no, of which MLflow keeps 1 or 0
FLAGS = frozenset({"collapsed"})


def curve_name(stage: str, key: str) -> str:
    """Name a curve of a stage."""
    if key in STAGES[stage].key_curves:
        return f"{stage}/{key}"
    return f"{stage}/more/{key}"


def named_curves(stage: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row of a stage's step log the names of its curves; its step stays."""
    return {key if key == "step" else curve_name(stage, key): row[key] for key in row}


def key_figures(stage: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the key metrics of a stage; all that it has is in the file `metrics/<stage>.json`.

    Of what is no stage of the table, as the findings of a study, all.
    """
    if stage not in STAGES:
        return dict(summary)
    return {key: summary[key] for key in STAGES[stage].key_metrics if key in summary}


def compared_figures(stage: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the few that are in DVC's tables, under the names that MLflow's parent run has for them.

    Each name has its stage, so that `dvc exp show` needs no path before it.
    """
    return under(stage, {key: summary[key] for key in STAGES[stage].compared if key in summary})


def under(group: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Put figures into a group of charts."""
    return {f"{group}/{key}": value for key, value in figures.items()}
