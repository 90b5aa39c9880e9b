"""Sending stages to work pools, from the pipeline flow, and noticing that a worker has died."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelling

from flows.elsewhere import lock_entry
from rlhf.common.errors import RlhfError
from tasks.elsewhere import Order, is_stale, needed_stages, place_order, stages_before, take_over
from tasks.process import OnLine
from tasks.repro import ReproFailed, repro

_POLL_SECONDS = 3.0
# a run that has told nothing for so long is taken up by another worker
_SILENCE = timedelta(minutes=3)


def run_with_pools(
    root: Path, targets: list[str], pools: Mapping[str, str], execution: str, on_line: OnLine
) -> None:
    """Bring the targets up to date, each stage of `pools` by a worker of its pool; others here."""
    for stage in needed_stages(root, targets):
        if stage in pools:
            before = stages_before(root, stage)
            if before:
                repro(root, before, {}, on_line)
            if is_stale(root, stage):
                on_line(f"{stage} goes to work pool {pools[stage]}")
                order = place_order(root, stage)
                take_over(root, stage, send(order, pools[stage], execution, on_line))
    repro(root, targets, {}, on_line)


def send(order: Order, pool: str, execution: str, on_line: OnLine) -> str:
    """Let a worker of the pool run an order; gives the stage's entry of dvc.lock.

    Raises ReproFailed where the run there fails, RlhfError where the pool has no deployment.
    """
    parameters = {
        "stage": order.stage,
        "commit": order.commit,
        "params": order.params,
        "lock": order.lock,
        "execution": execution,
    }
    try:
        started: Any = run_deployment(f"elsewhere/{pool}", parameters=parameters, timeout=0)
    except ObjectNotFound:
        raise RlhfError(
            f"work pool {pool}: no worker was ever started for it "
            f"(python -m flows.elsewhere --pool {pool}, in a clone on its machine)"
        ) from None
    with get_client(sync_client=True) as client:
        try:
            run = _wait(client, started.id, on_line)
        except BaseException:
            # whoever cancels the pipeline wants it to end there too
            client.set_flow_run_state(started.id, Cancelling(), force=True)
            raise
        if run.state is None or not run.state.is_completed():
            raise ReproFailed(f"{order.stage} in work pool {pool}: {_outcome(run)}")
        return _entry(client, run.id)


def _wait(client: SyncPrefectClient, run_id: UUID, on_line: OnLine) -> FlowRun:
    """Wait for the end of a run; one whose process is silent is given to another worker."""
    while True:
        run = client.read_flow_run(run_id)
        state = run.state
        if state is not None and state.is_final():
            return run
        begun = state is not None and (state.is_running() or state.is_pending())
        if begun and datetime.now(UTC) - _last_sign(client, run) > _SILENCE:
            on_line(f"{run.name}: its worker is silent; another one takes it up")
            client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        time.sleep(_POLL_SECONDS)


def _last_sign(client: SyncPrefectClient, run: FlowRun) -> datetime:
    """When a run last gave a sign of life: its present state, or a heartbeat since."""
    assert run.state is not None
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    beats = [datetime.fromisoformat(event["occurred"]) for event in answer.json()["events"]]
    return max([run.state.timestamp, *beats])


def _outcome(run: FlowRun) -> str:
    if run.state is None:
        return "no state"
    return f"{run.state.name}: {run.state.message or 'no message'}"


def _entry(client: SyncPrefectClient, run_id: UUID) -> str:
    wanted = ArtifactFilter(
        key=ArtifactFilterKey(any_=["dvc-lock"]),
        flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]),
    )
    artifacts = client.read_artifacts(artifact_filter=wanted)
    if not artifacts:
        raise ReproFailed(f"flow run {run_id} ended without its entry of dvc.lock")
    return lock_entry(str(artifacts[-1].data))
