"""From the metrics files of the workspace to MLflow.

Steps go there while a stage runs, summary, files and tables at its end.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.metric_names import SUMMARY, key_figures, named_curves, under
from tasks.missed import attempt
from tasks.run_card import write_run_card
from tasks.tracking import (
    TrackedRun,
    client_of,
    execution_run,
    log_metrics,
    log_missing_metrics,
    metrics_of,
    set_tags,
    tracking_uri,
)

# the UI shows a table whole
_TABLE_ROWS = 500
_TABLES = (".jsonl", ".parquet")


class StepTail:
    """Follow a stage's step log in a thread of its own and hand on its rows as they come.

    A log that is there already belongs to an earlier run and is not read until the stage writes it
    anew. `send` may raise: the rows are kept and offered again with the next ones, at the latest by
    `close`.
    """

    def __init__(
        self, path: Path, send: Callable[[list[dict[str, Any]]], None], seconds: float = 2.0
    ) -> None:
        self._path = path
        self._send = send
        self._seconds = seconds
        self._before = _file_state(path)
        self._offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"tail {path.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, then send what is left; raises what `send` raises."""
        self._stop.set()
        self._thread.join()
        self.send_new()

    def send_new(self) -> None:
        """Send the rows that were written since the last call; only one thread may call it."""
        if _file_state(self._path) in (None, self._before):
            return
        with self._path.open("rb") as stream:
            # a file that is shorter was begun anew
            if stream.seek(0, 2) < self._offset:
                self._offset = 0
            stream.seek(self._offset)
            # a line without its end is still being written
            complete, _, _ = stream.read().rpartition(b"\n")
        if complete:
            self._send([json.loads(line) for line in complete.splitlines()])
            self._offset += len(complete) + 1

    def _follow(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.send_new()
            except Exception:
                # a record that fails must not stop the stage; `close` tries again and raises
                continue


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file is written; None without one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def tail_to_mlflow(run: TrackedRun) -> StepTail:
    """Follow the step log of a run's stage into MLflow."""
    client = client_of(run.root)
    # a call that failed may have been heard in part
    doubtful = False

    def send(rows: list[dict[str, Any]]) -> None:
        nonlocal doubtful
        log = log_missing_metrics if doubtful else log_metrics
        doubtful = True
        log(client, run.run_id, _curves(run, rows))
        doubtful = False

    return StepTail(Workspace(run.root).steps(run.stage), send)


def log_steps(run: TrackedRun) -> None:
    """Log what MLflow has not heard of a run's steps."""
    rows = read_steps(Workspace(run.root).steps(run.stage))
    log_missing_metrics(client_of(run.root), run.run_id, _curves(run, rows))


def _curves(run: TrackedRun, rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    metrics: list[Metric] = []
    for row in rows:
        metrics += metrics_of(named_curves(run.stage, row), int(row["step"]))
    return metrics


@contextmanager
def system_metrics(run: TrackedRun) -> Iterator[None]:
    """Log processor, memory and GPU in the block, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for it."""
    # MLflow has no types here
    wanted: Any = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    if not wanted.get():
        yield
        return
    make: Any = SystemMetricsMonitor
    monitor = make(run.run_id, tracking_uri=tracking_uri(run.root))
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def record_results(
    run: TrackedRun, extra: Sequence[Path], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Log what the finished stage left in the workspace; gives its flat summary (empty without one).

    `extra` are further files: .jsonl and .parquet become tables of MLflow, others artifacts.
    """
    workspace = Workspace(run.root)
    path = workspace.metrics(run.stage)
    summary = read_json(path) if path.exists() else {}
    names = [file.relative_to(run.root).as_posix() for file in extra]
    files = [*_own_files(run), *extra, *_told_of_others(workspace)]
    attempt(run, f"metrics of {run.stage}", warn, log_results, files, extra=names)
    return summary


def log_results(run: TrackedRun, extra: Sequence[str]) -> None:
    """Log summary, files and tables of a run; `extra` are paths in its workspace."""
    client = client_of(run.root)
    workspace = Workspace(run.root)
    path = workspace.metrics(run.stage)
    _log_summary(client, run, read_json(path) if path.exists() else {})
    for file in _own_files(run):
        client.log_artifact(run.run_id, str(file), "metrics")
    for name in extra:
        _log_file(client, run, run.root / name)
    write_run_card(client, run.experiment_id, run.parent_id, workspace)


def _own_files(run: TrackedRun) -> list[Path]:
    """Whatever of these a stage has written."""
    workspace = Workspace(run.root)
    files = (workspace.metrics(run.stage), workspace.steps(run.stage), workspace.details(run.stage))
    return [file for file in files if file.exists()]


def _told_of_others(workspace: Workspace) -> list[Path]:
    """What the description of the execution is made of."""
    return [*map(workspace.metrics, STAGES), workspace.details("evaluate"), workspace.report]


def _log_summary(client: MlflowClient, run: TrackedRun, summary: dict[str, Any]) -> None:
    """Log the key figures: the others, counts for the most part, are in the file."""
    figures = key_figures(run.stage, summary)
    log_missing_metrics(client, run.run_id, metrics_of(under(SUMMARY, figures), 0))
    of_parent = client.get_run(run.parent_id).data.metrics
    metrics = metrics_of(under(run.stage, figures), 0)
    news = [metric for metric in metrics if of_parent.get(metric.key) != metric.value]
    log_metrics(client, run.parent_id, news)
    texts = {f"{SUMMARY}.{key}": value for key, value in figures.items() if isinstance(value, str)}
    set_tags(client, run.run_id, texts)


def _log_file(client: MlflowClient, run: TrackedRun, file: Path) -> None:
    if file.suffix in _TABLES:
        log_table(client, run.run_id, _read_table(file), f"tables/{file.stem}.json")
    else:
        client.log_artifact(run.run_id, str(file))
    # what one looks for first: in the run of the whole execution too
    if file == Workspace(run.root).report:
        client.log_artifact(run.parent_id, str(file))


def log_table(client: MlflowClient, run_id: str, table: pd.DataFrame, name: str) -> None:
    """Log a table, unless it is there: MLflow would add its rows a second time."""
    folder = str(Path(name).parent)
    if name not in [item.path for item in client.list_artifacts(run_id, folder)]:
        client.log_table(run_id, table, name)


def _read_table(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.DataFrame(read_steps(path))
    return table.head(_TABLE_ROWS)


def record_execution(root: Path, experiment: str, execution: str) -> None:
    """Complete an execution's parent run with dvc.lock and the summaries of all stages.

    Those of stages that were up to date are among them. An execution in which no stage ran has no
    parent run, and nothing is recorded.
    """
    client = client_of(root)
    parent = execution_run(client, experiment, execution)
    if parent is None:
        return
    workspace = Workspace(root)
    metrics: list[Metric] = []
    for stage in STAGES:
        path = workspace.metrics(stage)
        if path.exists():
            figures = key_figures(stage, read_json(path))
            metrics += metrics_of(under(stage, figures), 0)
    # the stages that ran have recorded theirs
    known = parent.data.metrics
    missing = [metric for metric in metrics if metric.key not in known]
    log_metrics(client, parent.info.run_id, missing)
    client.log_artifact(parent.info.run_id, str(root / "dvc.lock"))
    write_run_card(client, parent.info.experiment_id, parent.info.run_id, workspace)
