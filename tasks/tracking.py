"""MLflow runs: one parent an execution of the pipeline, one child a stage. Run ids are passed along.

An MLflow that cannot be reached stops a stage before it works (`open_run`). One that goes away later
costs a warning: the stage goes on, and what it could not tell is told later (`tasks.missed`).
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

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError
from rlhf.workspace import Workspace
from tasks.environment import records_root
from tasks.errors import TrackingError
from tasks.lineage import DEPENDENCY, Lineage
from tasks.provenance import dataset_inputs, flow_command, source_tags

# MLflow logs every table of a new database, and urllib3 every try to reach a server
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

# of an experiment: which of its two sets of pages MLflow opens with
_KIND, _MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
# what a server that went away and a locked or full database raise
_LOST = (MlflowException, OSError)
# what MLflow refuses in the name of a metric
_ADDRESS = "MLFLOW_TRACKING_URI"
_REFUSED_IN_NAMES = re.compile(r"[^/\w.\- :]")

# MLflow's limits of one call and of one value
_PARAMS_A_CALL = 100
_METRICS_A_CALL = 1000
_VALUE_LENGTH = 5000


@dataclass(frozen=True)
class TrackedRun:
    """A stage's run in MLflow: what the tasks of a flow hand on."""

    stage: str
    root: Path
    run_id: str
    parent_id: str
    experiment: str
    lineage: Lineage
    experiment_id: str


def tracking_uri(root: Path) -> str:
    """Give MLFLOW_TRACKING_URI, or else the database of the workspace."""
    return os.environ.get(_ADDRESS) or f"sqlite:///{records_root(root)}/mlflow.db"


def client_of(root: Path) -> MlflowClient:
    """Give a client of the workspace's tracking server or database, for runs and models alike."""
    # both given: the registry's default is a variable of its own
    uri = tracking_uri(root)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def global_address(uri: str) -> Iterator[None]:
    """Let MLflow's own look-ups use this address in the block.

    A store on a database resolves `models:/` by the global address, not by its own.
    """
    # MLflow sets the variable too
    before = os.environ.get(_ADDRESS)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        # as if it had never been set; this takes the variable away
        never: Any = None
        mlflow.set_tracking_uri(never)
        if before is not None:
            os.environ[_ADDRESS] = before


# -- a stage's run --------------------------------------------------------------------------------


def open_run(
    root: Path,
    stage: str,
    experiment: str,
    execution: str,
    lineage: Lineage,
    settings: Mapping[str, Any],
) -> TrackedRun:
    """Start a stage's run below its execution's parent.

    `settings` is the whole of params.yaml, flat, for the parent; the child gets those that its stage
    depends on. Raises TrackingError when MLflow cannot be reached.
    """
    try:
        client = client_of(root)
        experiment_id = _experiment(client, root, experiment).experiment_id
        parent = _search_execution(client, experiment_id, execution)
        if parent is None:
            parent = _create_parent(client, root, experiment_id, execution, lineage, settings)
        parent_id = parent.info.run_id
        # an earlier stage of this execution has ended it
        client.update_run(parent_id, status="RUNNING")
        tags = {
            "mlflow.parentRunId": parent_id,
            "rlhf.stage": stage,
            "rlhf.execution": execution,
            **source_tags(flow_command(stage), lineage.commit),
            **lineage.tags(),
        }
        child = client.create_run(experiment_id, tags=tags, run_name=stage)
        log_params(client, child.info.run_id, lineage.settings)
        client.log_dict(child.info.run_id, lineage.as_dict(), "lineage.json")
        datasets = dataset_inputs(root, stage, lineage)
        for run_id in (child.info.run_id, parent_id):
            client.log_inputs(run_id, datasets)
    except _LOST as error:
        address = without_credentials(tracking_uri(root))
        raise TrackingError(
            f"MLflow at {address} cannot be used: {first_line(error)}. "
            "Start that server, or unset MLFLOW_TRACKING_URI to record in the workspace"
        ) from None
    return TrackedRun(
        stage, root, child.info.run_id, parent_id, experiment, lineage, str(experiment_id)
    )


def close_run(
    run: TrackedRun, status: str, message: str | None = None, ended: int | None = None
) -> None:
    """End a stage's run and, until the next stage begins, its parent.

    `status` is FINISHED, FAILED or KILLED, `message` why, `ended` when, in milliseconds (now).
    """
    client = client_of(run.root)
    for run_id in (run.run_id, run.parent_id):
        if message:
            client.set_tag(run_id, "rlhf.message", message[:_VALUE_LENGTH])
        client.set_terminated(run_id, status, ended)


@contextmanager
def best_effort(what: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Turn a failure to record into a warning.

    Results are in the workspace and must not be lost over a record of them: whatever a store
    raises, an S3 client's own exceptions among them.
    """
    try:
        yield
    except Exception as error:
        warn(f"MLflow: {what} not recorded: {first_line(error)}")


# -- what a run holds -----------------------------------------------------------------------------


def log_params(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    """Log flat settings as params, in as few calls as MLflow allows."""
    params = [Param(key, str(value)[:_VALUE_LENGTH]) for key, value in settings.items()]
    for start in range(0, len(params), _PARAMS_A_CALL):
        client.log_batch(run_id, params=params[start : start + _PARAMS_A_CALL])


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """Log metrics in as few calls as MLflow allows."""
    for start in range(0, len(metrics), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_CALL])


def log_missing_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """Log those metrics of which the run has no value at their step yet."""
    known = {
        key: {metric.step for metric in client.get_metric_history(run_id, key)}
        for key in {metric.key for metric in metrics}
    }
    log_metrics(client, run_id, [one for one in metrics if one.step not in known[one.key]])


def metrics_of(row: Mapping[str, Any], step: int) -> list[Metric]:
    """Turn a row's numbers and truth values into metrics; text and missing values are left out."""
    now = int(time.time() * 1000)
    metrics = []
    for key, value in row.items():
        if key != "step" and isinstance(value, bool | int | float):
            name = _REFUSED_IN_NAMES.sub("_", key)
            metrics.append(Metric(name, float(value), now, step))
    return metrics


def tag_run(run: TrackedRun, tags: Mapping[str, str]) -> None:
    """Set tags of a stage's run."""
    set_tags(client_of(run.root), run.run_id, tags)


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set many tags in one call."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


# -- experiments and executions -------------------------------------------------------------------


def execution_run(client: MlflowClient, experiment: str, execution: str) -> Run | None:
    """Find the parent run of an execution."""
    known = client.get_experiment_by_name(experiment)
    return _search_execution(client, known.experiment_id, execution) if known else None


def _experiment(client: MlflowClient, root: Path, name: str) -> Experiment:
    """Find the experiment of that name, or make it."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # a server knows where its artifacts belong
        is_local = tracking_uri(root).startswith("sqlite:")
        location = (records_root(root) / "mlruns").as_uri() if is_local else None
        number = client.create_experiment(name, artifact_location=location)
        experiment = client.get_experiment(number)
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise TrackingError(
            f"the MLflow experiment {name!r} was deleted: bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, "
            "or set another name for the key experiment in params.yaml"
        )
    if _KIND not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, _KIND, _MODEL_TRAINING)
    return experiment


def _create_parent(
    client: MlflowClient,
    root: Path,
    experiment_id: str,
    execution: str,
    lineage: Lineage,
    settings: Mapping[str, Any],
) -> Run:
    """Make the parent run, which later stages of the same execution find."""
    tags = {"rlhf.role": "execution", "rlhf.execution": execution}
    tags |= source_tags("dvc repro", lineage.commit)
    for key, value in lineage.tags().items():
        # dependencies are those of one stage
        if not key.startswith(DEPENDENCY):
            tags[key] = value
    changed = "+" if lineage.dirty else ""
    name = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {lineage.commit[:8]}{changed}"
    parent = client.create_run(experiment_id, tags=tags, run_name=name)
    log_params(client, parent.info.run_id, settings)
    client.log_artifact(parent.info.run_id, str(Workspace(root).params))
    return parent


def _search_execution(client: MlflowClient, experiment_id: str, execution: str) -> Run | None:
    query = f"tags.`rlhf.execution` = '{execution}' and tags.`rlhf.role` = 'execution'"
    runs = client.search_runs([experiment_id], query, max_results=1)
    return runs[0] if runs else None


def first_line(error: Exception) -> str:
    """What a failure says, fit for one line of a log."""
    text = without_credentials(str(error)).strip() or type(error).__name__
    line = text.splitlines()[0]
    # ours tell at their end what to do
    return line if isinstance(error, RlhfError) else textwrap.shorten(line, 200)
