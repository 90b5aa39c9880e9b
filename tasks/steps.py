"""The Prefect tasks that stage flows are made of. Arguments are names, paths and small records; nothing is cached here."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException

from rlhf.common.errors import ChangedError
from rlhf.settings import Settings, flatten, load_settings
from rlhf.workspace import Workspace
from tasks import tracking
from tasks.errors import StageFailed
from tasks.execution import current_execution
from tasks.lineage import Lineage, output_hashes, stage_lineage
from tasks.process import run_process
from tasks.recording import record_results, tail_to_mlflow
from tasks.registry import register_model
from tasks.tracking import StageRun
from tasks.worker import worker_command, worker_environment

LOGS = Path("logs")


@contextmanager
def recorded(stage: str, root: Path = Path()) -> Iterator[StageRun]:
    """Check a stage's settings and inputs and keep an MLflow run open around the block."""
    settings, lineage = check_inputs(stage, root)
    for directory in Workspace(root).finished_checkpoints(but=stage):
        shutil.rmtree(
            directory, ignore_errors=True
        )  # DVC has recorded those stages, or it would not be here
    with kept_open(open_run(stage, root, settings, lineage)) as run:
        yield run


@contextmanager
def kept_open(run: StageRun) -> Iterator[StageRun]:
    """Close the MLflow run after the block: FINISHED, FAILED with the message, or KILLED on Ctrl-C and cancellation."""
    status, message = "KILLED", None
    try:
        yield run
        status = "FINISHED"
    except Exception as error:
        status = "FAILED"
        message = "\n".join(
            [str(error), *(error.last_lines if isinstance(error, StageFailed) else [])]
        )
        raise
    finally:
        with tracking.tolerated("the end of the run", get_run_logger().warning):
            tracking.close_run(run, status, message)


@task(task_run_name="check inputs of {stage}", cache_policy=NO_CACHE)
def check_inputs(stage: str, root: Path) -> tuple[Settings, Lineage]:
    """Refuse bad settings and missing inputs before any work; hash what the stage reads."""
    settings = load_settings(Workspace(root).params)
    return settings, stage_lineage(root, stage, settings)


@task(task_run_name="open MLflow run of {stage}", cache_policy=NO_CACHE)
def open_run(stage: str, root: Path, settings: Settings, lineage: Lineage) -> StageRun:
    """Start the stage's run; fails when MLflow cannot be reached."""
    content = flatten(settings.model_dump(mode="json", by_alias=True))
    return tracking.open_run(
        root, stage, settings.experiment, current_execution().key, lineage, content
    )


@task(task_run_name="run {run.stage}", cache_policy=NO_CACHE)
def run_worker(run: StageRun, *command: str) -> None:
    """Do the stage's work in processes of its own, its output in the log and its steps in MLflow while it runs.

    `command` are the module and arguments of a worker other than that of the chain's stages.
    """
    logger = get_run_logger()
    workspace = Workspace(run.root)
    settings = load_settings(workspace.params)
    environment = worker_environment(run.stage, settings)
    environment["RLHF_GIT_COMMIT"] = run.lineage.commit[:12] + (
        " with changes" if run.lineage.dirty else ""
    )
    log = run.root / LOGS / f"{run.stage}.log"
    tail = tail_to_mlflow(run)
    done = False
    try:
        code, last_lines = run_process(
            [sys.executable, "-m", *command] if command else worker_command(run.stage, settings),
            log=log,
            say=logger.info,
            environment=environment,
            directory=run.root,
        )
        if code:
            raise StageFailed(run.stage, code, log, last_lines)
        done = True
    finally:
        with tracking.tolerated("the last steps", logger.warning):
            tail.close()
        if not done:
            set_aside(workspace, run.stage)
            for kept in workspace.unfinished_checkpoints(run.stage):
                logger.info(
                    "%s is kept: with the settings, data, code and libraries that it was made from, `dvc repro` resumes it",
                    kept,
                )
    refuse_changes(run)


def refuse_changes(run: StageRun) -> None:
    """Refuse outputs whose inputs changed meanwhile: DVC hashes inputs last, and would tie the new ones to them."""
    after = stage_lineage(run.root, run.stage, load_settings(Workspace(run.root).params))
    old, new = (lineage.dependencies | lineage.settings for lineage in (run.lineage, after))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        raise ChangedError(
            f"{', '.join(changed)}: changed while {run.stage} ran; run it again (dvc repro)"
        )


def set_aside(workspace: Workspace, stage: str) -> None:
    """Move the logs that a failed stage was still writing to `.failures/<stage>`: outputs are whole or not there."""
    folder = workspace.failures / stage
    for path in (workspace.steps(stage), workspace.samples(stage)):
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.replace(folder / path.name)


@task(task_run_name="record {run.stage}", cache_policy=NO_CACHE)
def record(run: StageRun, *extra: str) -> None:
    """Log summary, files and tables in MLflow and show the summary in Prefect; `extra` are paths in the workspace."""
    summary = record_results(
        run, tuple(run.root / path for path in extra), get_run_logger().warning
    )
    with tracking.tolerated("the hashes of its outputs", get_run_logger().warning):
        tags = {
            f"dvc.out.{path}": value for path, value in output_hashes(run.root, run.stage).items()
        }
        tracking.set_tags(tracking.client_of(run.root), run.run_id, tags)
    if summary.get("collapsed"):
        step = summary.get("collapse_step")
        get_run_logger().warning(
            "the policy collapsed at iteration %s; kept is that of %s",
            step,
            summary.get("kept_step"),
        )
        with tracking.tolerated("the collapse", get_run_logger().warning):
            tracking.set_tags(
                tracking.client_of(run.root), run.run_id, {"rlhf.collapse_step": str(step)}
            )
    rows: list[dict[str, Any]] = [
        {"metric": key, "value": value} for key, value in sorted(summary.items())
    ]
    with suppress(
        httpx.HTTPError, PrefectException
    ):  # a Prefect server that was lost must not cost the stage
        create_table_artifact(
            rows, key=f"{run.stage}-metrics", description=f"MLflow run {run.run_id}"
        )


@task(task_run_name="register {model}", cache_policy=NO_CACHE)
def register(run: StageRun, model: str, alias: str | None = None) -> None:
    """Make a version of the model in MLflow's registry, by reference to the bytes that DVC keeps."""
    logger = get_run_logger()
    dvc_hash = output_hashes(run.root, run.stage)[f"models/{model}"]
    with tracking.tolerated(f"model {model}", logger.warning):
        version = register_model(run, model, dvc_hash, alias)
        logger.info(
            "%s, version %s%s", version.name, version.version, f", alias {alias}" if alias else ""
        )
