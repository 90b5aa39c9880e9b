"""MLflow runs: one parent an execution of the pipeline, one child a stage. Run ids are passed, nothing is ambient.

An MLflow that cannot be reached stops a stage before it works (`open_run`). One that goes away later costs a warning:
the stage goes on, and what it wrote stays in the workspace (`tolerated`).
"""

import logging
import os
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tasks.environment import home_of
from tasks.errors import TrackingError
from tasks.lineage import Lineage

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of a new database
logging.getLogger("urllib3.connectionpool").setLevel(
    logging.ERROR
)  # and of every try to reach a server

_LOST = (
    MlflowException,
    OSError,
)  # what a server that went away and a locked or full database raise
_NO_NAME = re.compile(r"[^/\w.\- :]")  # what MLflow refuses in the name of a metric
_PARAMS_A_CALL, _METRICS_A_CALL, _VALUE_LENGTH = 100, 1000, 5000  # MLflow's limits


@dataclass(frozen=True)
class StageRun:
    """A stage's run in MLflow: what the tasks of a flow hand on."""

    stage: str
    root: Path
    run_id: str
    parent_id: str
    experiment: str
    lineage: Lineage


def tracking_uri(root: Path) -> str:
    """Give MLFLOW_TRACKING_URI, or else the database of the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home_of(root)}/mlflow.db"


def shown(text: str) -> str:
    """Give `text` without the user name and password of the addresses in it, fit for terminals and logs."""
    return re.sub(r"(?<=://)[^/\s]+@", "", text)


def client_of(root: Path) -> MlflowClient:
    """Give a client of the workspace's tracking server or database, for runs and models alike."""
    uri = tracking_uri(root)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_run(
    root: Path,
    stage: str,
    experiment: str,
    execution: str,
    lineage: Lineage,
    settings: Mapping[str, Any],
) -> StageRun:
    """Start a stage's run below its execution's parent; raises TrackingError when MLflow cannot be reached.

    `settings` is the whole of params.yaml, flat, for the parent; the child gets those that its stage depends on.
    """
    try:
        client = client_of(root)
        found = _experiment(client, root, experiment)
        parent = _parent(client, root, found.experiment_id, execution, lineage, settings)
        client.update_run(parent.info.run_id, status="RUNNING")
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "rlhf.training.run": stage,
            "rlhf.execution": execution,
        }
        child = client.create_run(found.experiment_id, tags=tags | lineage.tags(), run_name=stage)
        run = StageRun(stage, root, child.info.run_id, parent.info.run_id, experiment, lineage)
        log_params(client, run.run_id, lineage.settings)
    except _LOST as error:
        raise TrackingError(
            f"MLflow at {shown(tracking_uri(root))} cannot be used: {_first_line(error)}. "
            "Start that server, or unset MLFLOW_TRACKING_URI to record in the workspace"
        ) from None
    return run


def close_run(run: StageRun, status: str, message: str | None = None) -> None:
    """End a stage's run and, until the next stage begins, its parent: FINISHED, FAILED or KILLED and why."""
    client = client_of(run.root)
    for run_id in (run.run_id, run.parent_id):
        if message:
            client.set_tag(run_id, "rlhf.message", message[:_VALUE_LENGTH])
        client.set_terminated(run_id, status)


@contextmanager
def tolerated(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Turn a tracking failure into a warning: results are in the workspace and must not be lost over a record."""
    try:
        yield
    except _LOST as error:
        say(f"MLflow: {what} not recorded: {_first_line(error)}")


def log_params(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    """Log flat settings as params."""
    params = [Param(key, str(value)[:_VALUE_LENGTH]) for key, value in settings.items()]
    for start in range(0, len(params), _PARAMS_A_CALL):
        client.log_batch(run_id, params=params[start : start + _PARAMS_A_CALL])


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """Log metrics in as few calls as MLflow allows."""
    for start in range(0, len(metrics), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_CALL])


def metrics_of(row: Mapping[str, Any], step: int, prefix: str = "") -> list[Metric]:
    """Turn a row's numbers and truth values into metrics; text and missing values are passed over."""
    now = int(time.time() * 1000)
    return [
        Metric(_NO_NAME.sub("_", prefix + key), float(value), now, step)
        for key, value in row.items()
        if key != "step" and isinstance(value, bool | int | float)
    ]


def _experiment(client: MlflowClient, root: Path, name: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    if found is None:
        local = tracking_uri(root).startswith(
            "sqlite:"
        )  # a server knows where its artifacts belong
        place = (home_of(root) / "mlruns").as_uri() if local else None
        found = client.get_experiment(client.create_experiment(name, artifact_location=place))
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise TrackingError(
            f"the MLflow experiment {name!r} was deleted: bring it back with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or set another name for the key experiment in params.yaml"
        )
    return found


def _parent(
    client: MlflowClient,
    root: Path,
    experiment_id: str,
    execution: str,
    lineage: Lineage,
    settings: Mapping[str, Any],
) -> Run:
    """Find the parent that an earlier stage of the same execution made, or make it."""
    found = _search(client, experiment_id, execution)
    if found:
        return found
    tags = {"rlhf.role": "execution", "rlhf.execution": execution}
    tags |= {key: value for key, value in lineage.tags().items() if not key.startswith("dvc.dep.")}
    name = (
        f"{time.strftime('%Y-%m-%d %H:%M:%S')} {lineage.commit[:8]}{'+' if lineage.dirty else ''}"
    )
    parent = client.create_run(experiment_id, tags=tags, run_name=name)
    log_params(client, parent.info.run_id, settings)
    client.log_artifact(parent.info.run_id, str(root / "params.yaml"))
    return parent


def execution_run(client: MlflowClient, experiment: str, execution: str) -> Run | None:
    """Find the parent run of an execution."""
    found = client.get_experiment_by_name(experiment)
    return _search(client, found.experiment_id, execution) if found else None


def _search(client: MlflowClient, experiment_id: str, execution: str) -> Run | None:
    query = f"tags.`rlhf.execution` = '{execution}' and tags.`rlhf.role` = 'execution'"
    found = client.search_runs([experiment_id], query, max_results=1)
    return found[0] if found else None


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set many tags in one call."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _first_line(error: Exception) -> str:
    text = shown(str(error)).strip() or type(error).__name__
    return textwrap.shorten(text.splitlines()[0], 200)
