"""Sending stages to work pools, from the pipeline flow, and noticing that a worker has died."""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, Log
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.states import AwaitingRetry, Cancelling

from flows.pool_worker import lock_entry
from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError
from tasks.execution import current_execution
from tasks.orders import (
    Order,
    needed_stages,
    place_order,
    refuse_unready,
    stages_before,
    take_over,
    why_stale,
)
from tasks.process import OnLine
from tasks.repro import ReproFailed, dvc_repro, wait_for_others

# six heartbeats of a worker's run
SILENCE_SECONDS = 180
# Prefect brings a run's log to its server every two
_POLL_SECONDS = 3.0
_LOG_PAGE = 200
# what Prefect's client raises while its server is away, after tries of its own
_AWAY = httpx.HTTPError


def send_stages(
    root: Path,
    targets: list[str],
    pools: Mapping[str, str],
    on_line: OnLine,
    silence: float = SILENCE_SECONDS,
    *,
    wait: bool = True,
) -> None:
    """Bring those stages of `pools` up to date that the targets need, each by a worker of its pool.

    What they need runs before them, here or in a pool; the workspace is held.
    silence: seconds after which a run that gives no sign of life is taken up by another worker
    wait: for another DVC command
    """
    if not pools:
        return
    needed = needed_stages(root, targets)
    for stage in pools.keys() - set(needed):
        on_line(f"{stage} is not needed here: nothing of it goes to work pool {pools[stage]}")
    sent = [stage for stage in needed if stage in pools]
    # refused before anything else has run for hours
    if any(why_stale(root, stage, with_needed=True) for stage in sent):
        refuse_unready(root)
        refuse_unknown_pools({pools[stage] for stage in sent})
    for stage in sent:
        before = stages_before(root, stage)
        if before:
            dvc_repro(root, before, on_line, wait=wait)
        if why_stale(root, stage):
            on_line(f"{stage} goes to work pool {pools[stage]}")
            entry = send(place_order(root, stage), pools[stage], on_line, silence)
            # somebody may have begun to run it by hand meanwhile
            wait_for_others(root, on_line, wait=wait)
            take_over(root, stage, entry)


def refuse_unknown_pools(pools: Collection[str]) -> None:
    """Raise RlhfError where no worker was ever started for a pool."""
    with get_client(sync_client=True) as client:
        for pool in sorted(pools):
            try:
                client.read_deployment_by_name(f"pool_stage/{pool}")
            except ObjectNotFound:
                server = without_credentials(str(client.api_url))
                raise RlhfError(
                    f"work pool {pool}: no worker was ever started for it at {server}; start one in a "
                    f"clone on its machine, with PREFECT_API_URL set here and there to the same "
                    f"server: python -m flows.pool_worker {pool}"
                ) from None


def send(order: Order, pool: str, on_line: OnLine, silence: float) -> str:
    """Let a worker of the pool run an order; gives the stage's entry of dvc.lock.

    Raises ReproFailed where the run there fails, RlhfError where it is cancelled.
    """
    parameters = {
        "stage": order.stage,
        "commit": order.commit,
        "params": order.params,
        "lock": order.lock,
        "execution": current_execution().key,
    }
    started: Any = run_deployment(f"pool_stage/{pool}", parameters=parameters, timeout=0)
    with get_client(sync_client=True) as client:
        try:
            run = RunWatch(client, started.id, pool, silence, on_line).wait()
        except (KeyboardInterrupt, SystemExit, TerminationSignal):
            # whoever cancels the pipeline wants it to end there too
            try:
                client.set_flow_run_state(started.id, Cancelling(), force=True)
            except _AWAY as error:
                on_line(
                    f"{order.stage} goes on in work pool {pool}, its cancellation failed: {error}"
                )
            raise
        outcome = f"{order.stage} in work pool {pool}: {_outcome(run)}"
        if run.state is not None and run.state.is_cancelled():
            # no fault that another try could mend
            raise RlhfError(outcome)
        if run.state is None or not run.state.is_completed():
            raise ReproFailed(outcome)
        return _entry(client, run.id)


class RunWatch:
    """Waits for the end of a run, says its log, and gives it to another worker where it falls silent.

    Time is measured here, from one sign of life to the next: other machines have other clocks.
    """

    def __init__(
        self,
        client: SyncPrefectClient,
        run_id: UUID,
        pool: str,
        silence: float,
        on_line: OnLine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._pool = pool
        self._silence = silence
        self._on_line = on_line
        self._clock = clock
        self._sign: tuple[object, ...] = ()
        self._since = clock()
        self._told = ""
        self._log_ids: set[UUID] = set()
        # whether heartbeats come through at all
        self._hears = False

    def wait(self) -> FlowRun:
        """Give the run once it has ended."""
        while True:
            try:
                run = self._client.read_flow_run(self._run_id)
                ended = run.state is not None and run.state.is_final()
                if ended:
                    # its last lines may still be on their way
                    time.sleep(_POLL_SECONDS)
                else:
                    self._look(run)
                self._say_log()
                if ended:
                    return run
            except _AWAY as error:
                # not for a password that is refused, and the like
                if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                    raise
                # signs of life cannot come through meanwhile
                self._since = self._clock()
                self._tell(f"the Prefect server does not answer ({error}); the run goes on")
            time.sleep(_POLL_SECONDS)

    def _look(self, run: FlowRun) -> None:
        """Note a sign of life, or have the run taken up by another worker for want of one."""
        state = run.state
        assert state is not None
        heartbeat = self._last_heartbeat()
        self._hears = self._hears or heartbeat is not None
        sign = (state.id, heartbeat)
        if sign != self._sign:
            self._sign, self._since = sign, self._clock()
            self._tell(f"{run.name}: {state.name}")
        # one that is scheduled waits for a worker: it has no life to show
        begun = state.is_running() or state.is_pending()
        if not begun or self._clock() - self._since <= self._silence:
            return
        if state.is_running() and not self._hears:
            self._tell(
                f"{run.name}: runs without heartbeats, which come by websocket (does a proxy pass "
                "them?): a worker that dies will not be noticed"
            )
            return
        self._on_line(f"{run.name}: its worker is silent; another one takes it up")
        self._client.set_flow_run_state(self._run_id, AwaitingRetry(), force=True)

    def _say_log(self) -> None:
        """Say the lines of the run's log that are new."""
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self._run_id]))
        lines: list[Log] = []
        # pages from the newest back, until one has lines that were said
        while True:
            page = self._client.read_logs(
                of_run, offset=len(lines), sort=LogSort.TIMESTAMP_DESC, limit=_LOG_PAGE
            )
            new = [line for line in page if line.id not in self._log_ids]
            lines += new
            if len(new) < _LOG_PAGE:
                break
        for line in reversed(lines):
            self._log_ids.add(line.id)
            self._on_line(f"{self._pool}: {line.message}")

    def _last_heartbeat(self) -> str | None:
        """The id of the run's newest heartbeat."""
        wanted = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{self._run_id}"]},
            # a worker's clock may be ahead
            "occurred": {"until": str(datetime.now(UTC) + timedelta(days=365))},
            "order": "DESC",
        }
        answer = self._client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
        events = answer.json()["events"]
        return str(events[0]["id"]) if events else None

    def _tell(self, line: str) -> None:
        """Say once what may be seen many times in a row."""
        if line != self._told:
            self._told = line
            self._on_line(line)


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
