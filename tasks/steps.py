"""The Prefect tasks that stage flows are made of.

Arguments are names, paths and small records; nothing is cached here.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from rlhf.common.errors import ChangedError
from rlhf.common.files import read_json, tree_sha256, write_json
from rlhf.common.progress import PROGRESS_FILE
from rlhf.settings import Settings, flatten, load_settings
from rlhf.stages import STAGES
from rlhf.watched import refuse_unwatched_stages
from rlhf.workspace import Workspace
from tasks import tracking
from tasks.errors import StageFailed
from tasks.execution import current_execution
from tasks.figures import evaluation_figures, stage_figures
from tasks.lineage import Lineage, cache_output, output_hashes, stage_lineage
from tasks.metric_names import compared_figures
from tasks.missed import attempt, deliver, kept, pending
from tasks.process import run_process
from tasks.recording import log_steps, record_results, system_metrics, tail_to_mlflow
from tasks.registry import (
    REGISTERED_MODELS,
    record_figures,
    record_judged,
    register_model,
)
from tasks.run_page import emit_collapse, show_results, shown_progress
from tasks.tracking import TrackedRun
from tasks.versions import register_later
from tasks.worker import worker_command, worker_environment

LOGS = Path("logs")
_RESUMABLE = (
    "%s is kept: with the settings, data, code and libraries that it was made from, "
    "`dvc repro` resumes it"
)


# -- the run in MLflow ----------------------------------------------------------------------------


@contextmanager
def tracked_stage(stage: str, root: Path = Path()) -> Iterator[TrackedRun]:
    """Check a stage's settings and inputs and keep an MLflow run open around the block."""
    settings, lineage = check_inputs(stage, root)
    for directory in Workspace(root).finished_checkpoints(but=stage):
        # DVC has recorded those stages, or it would not be here
        shutil.rmtree(directory, ignore_errors=True)
    with closing_run(open_run(stage, root, settings, lineage)) as run:
        yield run


@contextmanager
def closing_run(run: TrackedRun) -> Iterator[TrackedRun]:
    """Close the MLflow run after the block.

    It ends FINISHED, FAILED with the message, or KILLED on Ctrl-C and cancellation.
    """
    warn = get_run_logger().warning
    # what stays on Ctrl-C and cancellation, which are no Exception
    status, message = "KILLED", None
    try:
        yield run
        status = "FINISHED"
    except Exception as error:
        status = "FAILED"
        output = error.last_lines if isinstance(error, StageFailed) else []
        message = "\n".join([str(error), *output])
        raise
    finally:
        what, ended = "the end of the run", int(time.time() * 1000)
        close = tracking.close_run
        attempt(run, what, warn, close, status=status, message=message, ended=ended)


@task(task_run_name="check inputs of {stage}", cache_policy=NO_CACHE)
def check_inputs(stage: str, root: Path) -> tuple[Settings, Lineage]:
    """Refuse bad settings and missing inputs before any work; hash what the stage reads."""
    settings = load_settings(Workspace(root).params)
    # an arm of a study lists its code when it is laid out
    if stage in STAGES:
        # of all stages: what a later one lacks is told before hours of work
        refuse_unwatched_stages(root, settings)
    return settings, stage_lineage(root, stage, settings)


@task(task_run_name="open MLflow run of {stage}", cache_policy=NO_CACHE)
def open_run(stage: str, root: Path, settings: Settings, lineage: Lineage) -> TrackedRun:
    """Start the stage's run; fails when MLflow cannot be reached.

    What earlier runs could not tell comes first.
    """
    logger = get_run_logger()
    for problem in deliver(root, logger.info):
        logger.warning("MLflow: not recorded: %s", problem)
    content = flatten(settings.model_dump(mode="json", by_alias=True))
    execution = current_execution().key
    return tracking.open_run(root, stage, settings.experiment, execution, lineage, content)


# -- the work -------------------------------------------------------------------------------------


@task(task_run_name="run {run.stage}", cache_policy=NO_CACHE)
def run_worker(run: TrackedRun, *command: str) -> None:
    """Do the stage's work in processes of its own.

    Its output goes to the log and its steps to MLflow while it runs. `command` are the module and
    arguments of a worker other than that of the table's stages.
    """
    logger = get_run_logger()
    workspace = Workspace(run.root)
    settings = load_settings(workspace.params)
    command_line = [sys.executable, "-m", *command]
    if not command:
        command_line = worker_command(run.stage, settings)
    log_file = run.root / LOGS / f"{run.stage}.log"
    tail = tail_to_mlflow(run)
    done = False
    try:
        progress = (run.root / LOGS / f"{run.stage}.progress.json").resolve()
        environment = _environment(run, settings) | {PROGRESS_FILE: str(progress)}
        with shown_progress(run.stage, progress), system_metrics(run):
            code, last_lines = run_process(
                command_line,
                log_file=log_file,
                on_line=logger.info,
                environment=environment,
                directory=run.root,
            )
        if code:
            raise StageFailed(run.stage, code, log_file, last_lines)
        done = True
    # the steps are recorded however it ended
    finally:
        steps = workspace.steps(run.stage)
        with kept(run, "the last steps", logger.warning, log_steps, [steps]):
            tail.close()
        if not done:
            move_logs_aside(workspace, run.stage)
            for checkpoint in workspace.unfinished_checkpoints(run.stage):
                logger.info(_RESUMABLE, checkpoint)
    refuse_changes(run)


def _environment(run: TrackedRun, settings: Settings) -> dict[str, str]:
    """That of a worker, with the commit that the report names."""
    changes = " with changes" if run.lineage.dirty else ""
    commit = f"{run.lineage.commit[:12]}{changes}"
    return worker_environment(run.stage, settings) | {"RLHF_GIT_COMMIT": commit}


def refuse_changes(run: TrackedRun) -> None:
    """Refuse outputs whose inputs changed meanwhile; raises ChangedError.

    DVC hashes inputs when a stage has ended, and would tie the outputs to inputs that they were not
    made from.
    """
    settings = load_settings(Workspace(run.root).params)
    changed = run.lineage.changed_keys(stage_lineage(run.root, run.stage, settings))
    if changed:
        names = ", ".join(changed)
        raise ChangedError(f"{names}: changed while {run.stage} ran; run it again (dvc repro)")


def move_logs_aside(workspace: Workspace, stage: str) -> None:
    """Move the logs that a failed stage was still writing to `.failures/<stage>`.

    Outputs are whole or missing.
    """
    folder = workspace.failures / stage
    for path in (workspace.steps(stage), workspace.samples(stage)):
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.replace(folder / path.name)


# -- the results ----------------------------------------------------------------------------------


def write_key_figures(run: TrackedRun) -> None:
    """Write the file that DVC's tables of metrics read, out of the summary that the worker wrote."""
    if not STAGES[run.stage].dvc_metrics:
        return
    workspace = Workspace(run.root)
    summary = read_json(workspace.metrics(run.stage))
    write_json(workspace.key_figures(run.stage), compared_figures(run.stage, summary))


@task(task_run_name="record {run.stage}", cache_policy=NO_CACHE)
def record(run: TrackedRun, *extra: str) -> None:
    """Log summary, files and tables in MLflow and show the summary in Prefect.

    `extra` are further files, as paths in the workspace.
    """
    logger = get_run_logger()
    summary = record_results(run, [run.root / path for path in extra], logger.warning)
    hashes = output_hashes(run.root, run.stage)
    tags = {f"dvc.out.{path}": value for path, value in hashes.items()}
    attempt(run, "the hashes of its outputs", logger.warning, tracking.tag_run, tags=tags)
    if summary.get("collapsed"):
        _record_collapse(run, summary)
    show_results(run, summary)


def _record_collapse(run: TrackedRun, summary: dict[str, Any]) -> None:
    """Tell the log, MLflow, and whoever has an automation for the event."""
    logger = get_run_logger()
    step, kept_step = summary.get("collapse_step"), summary.get("kept_step")
    message = f"the policy collapsed at iteration {step}; kept is that of {kept_step}"
    logger.warning(message)
    tags = {"rlhf.collapse_step": str(step)}
    attempt(run, "the collapse", logger.warning, tracking.tag_run, tags=tags)
    emit_collapse(run, message)


@task(task_run_name="register {model}", cache_policy=NO_CACHE)
def register(run: TrackedRun, model: str, alias: str | None = None) -> None:
    """Make a version of the model in MLflow's registry, with what its stage measured of it."""
    logger = get_run_logger()
    workspace = Workspace(run.root)
    settings = load_settings(workspace.params)
    # from here on DVC has its bytes, whenever MLflow wants them
    output = cache_output(run.root, run.stage, f"models/{model}")
    figures = stage_figures(run.root, run.stage)
    later = {
        "model": model,
        "alias": alias,
        "bytes_of": str(run.root.resolve()),
        "dvc_hash": output.dvc_hash,
        "tree": tree_sha256(workspace.model(model)),
        "figures": figures,
    }
    with kept(run, f"model {model}", logger.warning, register_later, [workspace.params], **later):
        version = register_model(run, model, output, alias, settings)
        record_figures(run, version, figures)
        suffix = f", alias {alias}" if alias else ""
        logger.info("%s, version %s%s", version.name, version.version, suffix)


@task(task_run_name="figures of the models", cache_policy=NO_CACHE)
def record_judged_models(run: TrackedRun) -> None:
    """Add what `evaluate` found to each model that it judged, in MLflow's registry."""
    logger = get_run_logger()
    workspace = Workspace(run.root)
    found = evaluation_figures(read_json(workspace.details("evaluate")))
    # by its bytes: DVC may have brought back a model that an earlier run registered
    judged = {
        model: {"tree": tree_sha256(workspace.model(model)), "figures": figures}
        for model, figures in found.items()
        # an opponent is nobody's stage
        if model in REGISTERED_MODELS
    }
    what = "the figures of the models"
    if pending(run.root):
        # a model may be among what is told later
        attempt(run, what, logger.warning, record_judged, judged=judged)
        return
    with tracking.best_effort(what, logger.warning):
        record_judged(run, judged)
