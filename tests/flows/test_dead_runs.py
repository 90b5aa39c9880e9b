"""Runs whose processes were killed outright, on a Prefect server: they are ended, and no other one is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Pending, Running, Scheduled, State

from flows import dead_runs
from flows.dead_runs import end_dead_runs
from tasks.execution import EXECUTION_VARIABLE
from tasks.server import release, shared_server


@flow
def pipeline() -> None:
    """Of which runs are made by hand here."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(root / ".prefect"))
        url = shared_server(root, psutil.Process())
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client
    release(root, psutil.Process())


class Records:
    """What a server holds of a deployment."""

    def __init__(self, client: SyncPrefectClient, deployment: str) -> None:
        self._client = client
        self._flow = client.create_flow(pipeline)
        self.deployment = client.create_deployment(self._flow, deployment)

    def run(self, state: State, **parameters: object) -> UUID:
        """Make a run of the deployment."""
        run = self._client.create_flow_run_from_deployment(self.deployment, parameters=parameters)
        self._client.set_flow_run_state(run.id, state, force=True)
        return run.id

    def stage(self, name: str) -> UUID:
        """Make a run that belongs to none."""
        run = self._client.create_flow_run(pipeline, name=name)
        self._client.set_flow_run_state(run.id, Running(), force=True)
        return run.id

    def state(self, run: UUID) -> str:
        state = self._client.read_flow_run(run).state
        assert state is not None
        return str(state.name)


@contextmanager
def a_process(**variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A living process with these variables in its environment."""
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=os.environ | variables) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_the_dead_are_ended_with_their_stages_and_nobody_else(client: SyncPrefectClient) -> None:
    ours, others = Records(client, "ours"), Records(client, "others")
    dead = ours.run(Running(), pools={"ppo": "gpu"})
    begins, cancelled = ours.run(Pending()), ours.run(Running())
    # one that has not begun would be cancelled by the server itself
    client.set_flow_run_state(cancelled, Cancelling())
    assert ours.state(cancelled) == "Cancelling"
    living, orphan = ours.run(Running()), ours.run(Running())
    stage = ours.stage(f"sft-pipeline-{dead}")
    untouched = {
        ours.run(Completed()): "Completed",
        ours.run(Scheduled()): "Scheduled",
        others.run(Running()): "Running",
        # on another machine
        ours.stage(f"ppo-pipeline-{dead}"): "Running",
        # started by hand
        ours.stage("sft-host-17-1.00"): "Running",
    }
    with (
        a_process(PREFECT__FLOW_RUN_ID=str(living)),
        a_process(**{EXECUTION_VARIABLE: f"pipeline-{orphan}"}),
    ):
        told = list(end_dead_runs(client, [ours.deployment]))
    assert [ours.state(run) for run in (dead, begins, cancelled, stage)] == [
        "Crashed",
        "Crashed",
        "Cancelled",
        "Crashed",
    ]
    for run, state in (untouched | {living: "Running", orphan: "Running"}).items():
        assert ours.state(run) == state
    assert len([line for line in told if "goes on" in line]) == 2
    assert len([line for line in told if "its processes are gone" in line]) == 4

    # those two have ended by now, and the others are told of no more
    assert len(list(end_dead_runs(client, [ours.deployment]))) == 2
    assert {ours.state(living), ours.state(orphan)} == {"Crashed"}
    assert list(end_dead_runs(client, [ours.deployment])) == []
    assert list(end_dead_runs(client, [])) == []


def test_where_anothers_process_may_be_the_run_nothing_is_ended(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(client, "of two users")
    run = records.run(Running())
    with a_process() as process:

        class Hidden(psutil.Process):
            """As of another user: its command can be seen, its environment cannot."""

            def environ(self) -> dict[str, str]:
                raise psutil.AccessDenied(self.pid)

            def cmdline(self) -> list[str]:
                return [sys.executable, "-m", "prefect.engine"]

        monkeypatch.setattr(dead_runs.psutil, "process_iter", lambda: [Hidden(process.pid)])
        (line,) = end_dead_runs(client, [records.deployment])
    assert str(process.pid) in line and records.state(run) == "Running"
