"""The description of an execution's run in MLflow: which model is better, by how much, and where to look."""

from collections.abc import Collection, Iterator

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.figures import shown_figures
from tasks.matches import ComparisonResult, read_results
from tasks.tracking import set_tags

# told in the comparisons, with their intervals
_TOLD = ("win", "tie", "lose", "win_rate", "win_rate_low", "win_rate_high", "compared", "judge")


def write_run_card(
    client: MlflowClient, experiment_id: str, run_id: str, workspace: Workspace
) -> None:
    """Describe an execution by what its stages have measured so far.

    What an earlier execution left in the workspace is not told as this one's.
    """
    children = client.search_runs([experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")
    ran = {child.data.tags.get("rlhf.stage", "") for child in children}
    lines: list[str] = []
    if "evaluate" in ran:
        lines += [*_comparisons(workspace), ""]
    lines += [*_figures(workspace, ran), "", *_pointers(workspace, ran)]
    set_tags(client, run_id, {MLFLOW_RUN_NOTE: "\n".join(lines).strip()})


def _comparisons(workspace: Workspace) -> Iterator[str]:
    if not workspace.details("evaluate").exists():
        return
    yield "| comparison | win rate | length-controlled |"
    yield "|---|---|---|"
    for result in read_results(workspace):
        names = f"{result.challenger} over {result.baseline}, by {result.judge}"
        rate = _interval(result, "win_rate")
        yield f"| {names} | {rate} | {_interval(result, 'win_rate_length_controlled')} |"


def _interval(result: ComparisonResult, key: str) -> str:
    rate, low, high = (result.metrics.get(f"{key}{end}") for end in ("", "_low", "_high"))
    # nothing was judged, or the lengths leave nothing to control for
    if rate is None or low is None or high is None:
        return ""
    return f"{rate:.3f} [{low:.3f}, {high:.3f}]"


def _figures(workspace: Workspace, ran: Collection[str]) -> Iterator[str]:
    yield "| stage | figure | value |"
    yield "|---|---|---|"
    stages = [stage for stage in STAGES if stage in ran]
    for stage, key, text in shown_figures(workspace, stages):
        if key not in _TOLD:
            yield f"| {stage} | {key} | {text} |"


def _pointers(workspace: Workspace, ran: Collection[str]) -> Iterator[str]:
    if "report" in ran and workspace.report.exists():
        yield "The report, with curves and answers side by side: `index.html` under *Artifacts*."
    yield "The models: *Model registry*, or the runs of `sft`, `reward`, `dpo`, `process`, `ppo` and `gold` below this one."
