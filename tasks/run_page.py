"""What Prefect shows on a run's page: how far the work is, its key figures, and where to look further."""

import contextvars
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.exceptions import PrefectException

from rlhf.common.address import without_credentials
from rlhf.common.errors import DataError
from rlhf.common.files import read_json
from rlhf.common.shown import format_metric
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.environment import records_root
from tasks.figures import shown_figures
from tasks.metric_names import key_figures
from tasks.tracking import TrackedRun, tracking_uri

# a server that answers no more, and one that refuses: neither may cost the result
LOST = (httpx.HTTPError, PrefectException)
# the event of Prefect by which automations hear of a collapse
COLLAPSED = "rlhf.policy.collapsed"
_POLL_SECONDS = 5.0
_HUNDRED = 100.0


def artifact_key(stage: str, what: str) -> str:
    """Name an artifact of a stage or arm: Prefect takes small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9-]", "-", f"{stage}-{what}".lower())


# -- how far it is ----------------------------------------------------------------------------------


@contextmanager
def shown_progress(stage: str, path: Path) -> Iterator[None]:
    """Keep a progress bar on the run's page at what the worker writes to `path`, while the block runs."""
    path.unlink(missing_ok=True)
    stop = threading.Event()
    artifact: UUID | None = None
    with suppress(*LOST):
        made: Any = create_progress_artifact(
            0.0, key=artifact_key(stage, "progress"), description=stage
        )
        artifact = made
    if artifact is None:
        yield
        return
    watcher = threading.Thread(
        # with the address of the server, which is a setting of this context
        target=contextvars.copy_context().run,
        args=(_follow, artifact, path, stop),
        name=f"progress of {stage}",
        daemon=True,
    )
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    # stages without steps have shown nothing yet
    with suppress(*LOST):
        update_progress_artifact(artifact, progress=_HUNDRED, description=f"{stage}: done")


def _follow(artifact: UUID, path: Path, stop: threading.Event) -> None:
    shown: dict[str, Any] = {}
    while True:
        ended = stop.wait(_POLL_SECONDS)
        progress = _read(path)
        if progress and progress != shown:
            with suppress(*LOST):
                _show(artifact, progress)
                shown = progress
        if ended:
            return


def _read(path: Path) -> dict[str, Any]:
    # there is none before the first steps, and stages without steps write none
    with suppress(DataError):
        return read_json(path)
    return {}


def _show(artifact: UUID, progress: dict[str, Any]) -> None:
    share = _HUNDRED * progress["done"] / max(progress["total"], 1)
    text = f"{progress['what']}: {progress['done']} of {progress['total']}"
    update_progress_artifact(artifact, progress=share, description=text)


# -- what came of it --------------------------------------------------------------------------------


def show_results(run: TrackedRun, summary: dict[str, Any]) -> None:
    """Show a stage's key figures, and links to its run in MLflow and to the report."""
    lines = [*_figures(run, summary), *_links(run)]
    with suppress(*LOST):
        create_markdown_artifact(
            "\n".join(lines), key=artifact_key(run.stage, "results"), description=run.stage
        )


def _figures(run: TrackedRun, summary: Mapping[str, Any]) -> list[str]:
    """The table of a stage's figures; of a stage that measures nothing, as the report, that of all stages."""
    if run.stage in STAGES and not STAGES[run.stage].summary:
        title, rule = "| stage | figure | value |", "|---|---|---|"
        rows = [f"| {' | '.join(row)} |" for row in shown_figures(Workspace(run.root), STAGES)]
    else:
        title, rule = "| figure | value |", "|---|---|"
        figures = key_figures(run.stage, summary)
        rows = [
            f"| {key} | {format_metric(figures[key])} |"
            for key in figures
            if figures[key] is not None
        ]
    return [title, rule, *rows, ""] if rows else []


def _links(run: TrackedRun) -> list[str]:
    address = mlflow_address(run.root)
    if address is None:
        return [f"MLflow run `{run.run_id}`: `make ui` shows it."]
    runs = f"{address}/#/experiments/{run.experiment_id}/runs"
    return [
        f"[MLflow: this run, with curves and samples]({runs}/{run.run_id})",
        "",
        f"[MLflow: the execution, with the report]({runs}/{run.parent_id}/artifacts)",
    ]


def emit_collapse(run: TrackedRun, message: str) -> None:
    """Tell Prefect's automations that a policy collapsed."""
    resource = {"prefect.resource.id": f"rlhf.run.{run.run_id}", "rlhf.stage": run.stage}
    payload = {"message": message, "experiment": run.experiment}
    emit_event(COLLAPSED, resource=resource, payload=payload)


def mlflow_address(root: Path) -> str | None:
    """Give the address of MLflow's pages: that of the server in use, or of `make ui` where it runs."""
    uri = tracking_uri(root)
    if uri.startswith("http"):
        return without_credentials(uri)
    with suppress(DataError):
        return str(read_json(address_file(root))["address"])
    return None


def address_file(root: Path) -> Path:
    """Name the file in which `make ui` writes where MLflow's pages are, while they are there."""
    return records_root(root) / ".prefect" / "mlflow.json"
