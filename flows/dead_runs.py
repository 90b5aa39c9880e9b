"""Runs that Prefect calls running though they are gone: who is killed outright cannot say how it ended."""

from collections.abc import Collection, Iterator
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from tasks.execution import EXECUTION_VARIABLE

# Prefect gives the process of a run its id, which the stages of the run inherit
_RUN_VARIABLES = ("PREFECT__FLOW_RUN_ID", EXECUTION_VARIABLE)
_BEGUN = FlowRunFilterState(
    type=FlowRunFilterStateType(
        any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING],
    )
)
_GONE = "its processes are gone: killed, or the machine was switched off"


def end_dead_runs(client: SyncPrefectClient, deployments: Collection[UUID]) -> Iterator[str]:
    """Mark such runs and their stages as Crashed, or Cancelled where that was asked for; tell of each.

    deployments: whose runs work on this machine, and that nobody serves at present
    """
    of_ours = FlowRunFilterDeploymentId(any_=list(deployments))
    begun = FlowRunFilter(deployment_id=of_ours, state=_BEGUN)
    runs = client.read_flow_runs(flow_run_filter=begun) if deployments else []
    if not runs:
        return
    living, hidden = _living_runs()
    for run in runs:
        if any(name.endswith(str(run.id)) for name in living):
            yield f"{run.name}: goes on, although who started it is gone"
        elif hidden:
            yield f"{run.name}: left as it is; another user's process may belong to it: {hidden}"
        else:
            for ended in (run, *_stages_of(client, run)):
                yield _end(client, ended)


def _end(client: SyncPrefectClient, run: FlowRun) -> str:
    asked = run.state is not None and run.state.is_cancelling()
    state: State = Cancelled(message=_GONE) if asked else Crashed(message=_GONE)
    client.set_flow_run_state(run.id, state, force=True)
    return f"{run.name}: {state.name}; {_GONE}"


def _stages_of(client: SyncPrefectClient, run: FlowRun) -> list[FlowRun]:
    """The runs of stages, named as their execution, that still count as begun.

    Those of a work pool live on another machine.
    """
    wanted = FlowRunFilter(
        name=FlowRunFilterName(like_=str(run.id)),
        deployment_id=FlowRunFilterDeploymentId(is_null_=True),
        state=_BEGUN,
    )
    elsewhere = tuple(f"{stage}-" for stage in run.parameters.get("pools") or {})
    found = client.read_flow_runs(flow_run_filter=wanted)
    return [stage for stage in found if not stage.name.startswith(elsewhere)]


def _living_runs() -> tuple[set[str], list[int]]:
    """What processes name as the run that they work for, and ids of others' that may work for one."""
    living, hidden = set(), []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.AccessDenied:
            if _may_run_a_flow(process):
                hidden.append(process.pid)
            continue
        # it has ended meanwhile
        except (psutil.Error, OSError):
            continue
        living |= {environment[name] for name in _RUN_VARIABLES if name in environment}
    return living, hidden


def _may_run_a_flow(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except (psutil.Error, OSError):
        return False
    return any(word == "prefect.engine" or word.startswith("flows.") for word in words)
