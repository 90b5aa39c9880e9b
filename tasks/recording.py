"""From the metrics files of the workspace to MLflow: step by step while a stage runs, and the whole when it has ended."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Metric

from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.tracking import (
    StageRun,
    client_of,
    execution_run,
    log_metrics,
    metrics_of,
    set_tags,
    tolerated,
)

_TABLE_ROWS = 500  # the UI shows a table whole


class StepTail:
    """Follow a stage's step log in a thread of its own and hand on its metrics as they come.

    A log that is there already belongs to an earlier run and is not read until the stage writes it anew.
    `send` may raise: the rows are kept and offered again with the next ones, at the latest by `close`.
    """

    def __init__(
        self, path: Path, send: Callable[[list[Metric]], None], seconds: float = 2.0
    ) -> None:
        self._path, self._send, self._seconds = path, send, seconds
        self._before = _state(path)
        self._offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"tail {path.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, then send what is left; raises what `send` raises."""
        self._stop.set()
        self._thread.join()
        self._pass()

    def _follow(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._pass()
            except (
                Exception
            ):  # a record that fails must not stop the stage; `close` tries once more and tells
                continue

    def _pass(self) -> None:
        if _state(self._path) in (None, self._before):
            return
        with self._path.open("rb") as stream:
            if stream.seek(0, 2) < self._offset:  # begun anew
                self._offset = 0
            stream.seek(self._offset)
            whole, _, _ = stream.read().rpartition(b"\n")
        if whole:
            self._send([metric for line in whole.splitlines() for metric in _metrics_of_line(line)])
            self._offset += len(whole) + 1


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file is written; None without one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def tail_to_mlflow(run: StageRun) -> StepTail:
    """Follow the step log of a run's stage into MLflow."""
    client = client_of(run.root)
    path = Workspace(run.root).steps(run.stage)
    return StepTail(path, lambda metrics: log_metrics(client, run.run_id, metrics))


def record_results(
    run: StageRun, extra: tuple[Path, ...], say: Callable[[str], None]
) -> dict[str, Any]:
    """Log what the finished stage left in the workspace; gives its flat summary (empty without one).

    `extra` are further files: .jsonl and .parquet become tables of MLflow, others artifacts.
    """
    workspace = Workspace(run.root)
    path = workspace.metrics(run.stage)
    summary = read_json(path) if path.exists() else {}
    with tolerated(f"metrics of {run.stage}", say):
        client = client_of(run.root)
        log_metrics(
            client, run.run_id, metrics_of(summary, 0, prefix="summary.")
        )  # the bare names are the curves'
        log_metrics(client, run.parent_id, metrics_of(summary, 0, prefix=f"{run.stage}."))
        texts = {key: value for key, value in summary.items() if isinstance(value, str)}
        set_tags(client, run.run_id, {f"summary.{key}": value for key, value in texts.items()})
        for file in (path, workspace.steps(run.stage), workspace.details(run.stage)):
            if file.exists():
                client.log_artifact(run.run_id, str(file), "metrics")
        for file in extra:
            if file.suffix in (".jsonl", ".parquet"):
                client.log_table(run.run_id, _table(file), f"tables/{file.stem}.json")
            else:
                client.log_artifact(run.run_id, str(file))
    return summary


def record_execution(root: Path, experiment: str, execution: str) -> None:
    """Complete an execution's parent run: the summaries of all stages, also of those that were up to date, and dvc.lock.

    An execution in which no stage ran has no parent run, and nothing is recorded.
    """
    client = client_of(root)
    parent = execution_run(client, experiment, execution)
    if parent is None:
        return
    workspace, metrics = Workspace(root), []
    for stage in STAGES:
        if workspace.metrics(stage).exists():
            metrics += metrics_of(read_json(workspace.metrics(stage)), 0, prefix=f"{stage}.")
    known = parent.data.metrics
    log_metrics(
        client, parent.info.run_id, [metric for metric in metrics if metric.key not in known]
    )
    client.log_artifact(parent.info.run_id, str(root / "dvc.lock"))


def _table(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.DataFrame(read_steps(path))
    return table.head(_TABLE_ROWS)


def _metrics_of_line(line: bytes) -> list[Metric]:
    row = json.loads(line)
    return metrics_of(row, int(row["step"]))
