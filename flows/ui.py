"""Both user interfaces on loopback: `python -m flows.ui`.

Flows that start while it runs use its Prefect server. It also serves the deployments, so that runs can
be started, scheduled, cancelled and tried again from Prefect's page.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
import psutil

from flows.stage import exit_code, usable_server
from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, write_json
from tasks.guard import guard_environment, guarded_command
from tasks.run_page import address_file
from tasks.served import SERVED_ELSEWHERE, is_served
from tasks.server import HOST, free_port, release
from tasks.tracking import tracking_uri

# MLflow's own; another one where it is taken
MLFLOW_PORT = 5000
# the names of their logs
MLFLOW, DEPLOYMENTS = "mlflow-server", "deployments"
_START_SECONDS = 600.0
_STOP_SECONDS = 20.0
# a run that it has begun ends its stage first
_RUNNER_SECONDS = 120.0


@dataclass(frozen=True)
class MlflowServer:
    """An MLflow server that was started here, and the address at which it will answer."""

    address: str
    process: subprocess.Popen[bytes]


def main() -> None:
    """Start what is not running yet, print both addresses, and wait.

    Ctrl-C, SIGTERM or SIGHUP stops what nobody else uses.
    """
    root, this_process = Path(), psutil.Process()
    # SIGTERM ends it in order too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with exit_code():
        mlflow = runner = None
        try:
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                # it starts while Prefect's server does
                mlflow = start_mlflow(root)
            prefect_url = usable_server(root, this_process)
            runner = DeploymentRunner(root)
            print(f"Prefect  {without_credentials(prefect_url.removesuffix('/api'))}", flush=True)
            if mlflow is not None:
                mlflow = wait_for(mlflow, root)
                note_address(root, mlflow)
            print(f"MLflow   {mlflow_address(mlflow)}", flush=True)
            print("Ctrl-C stops both.", flush=True)
            wait_for_end(root, mlflow, runner)
        except KeyboardInterrupt:
            print("stopping")
        finally:
            # it has runs to end and schedules to pause, while there is a server
            if runner is not None:
                runner.stop()
            forget_address(root, mlflow)
            if mlflow is not None:
                stop(mlflow.process)
            if not release(root, this_process):
                print("The Prefect server stays until the runs that use it end.")


def mlflow_address(mlflow: MlflowServer | None) -> str:
    """Say where MLflow's page is; without a server that was started here it is another's."""
    if mlflow is None:
        address = without_credentials(os.environ["MLFLOW_TRACKING_URI"])
        return f"{address} (MLFLOW_TRACKING_URI; not started here)"
    return mlflow.address


def start_mlflow(root: Path, wanted: int = MLFLOW_PORT) -> MlflowServer:
    """Start an MLflow server on the workspace's database, at another port where `wanted` is taken."""
    port = free_port(wanted) or free_port(0)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", tracking_uri(root)]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    return MlflowServer(f"http://{HOST}:{port}", _start(root, MLFLOW, command))


def _start(root: Path, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to its log."""
    log = _log(root, name)
    log.parent.mkdir(exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        return subprocess.Popen(
            guarded_command(*command),
            env=os.environ | guard_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            # Ctrl-C comes to this process alone, which then stops it
            start_new_session=True,
        )


def start_runner(root: Path) -> subprocess.Popen[bytes]:
    """Serve the deployments in a process of its own, which runs what Prefect's page asks for."""
    return _start(root, DEPLOYMENTS, [sys.executable, "-m", "flows.deployments"])


class DeploymentRunner:
    """The process that serves the deployments; while another one does, it waits for its turn."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._waits = self._failed = False
        self._process = start_runner(root)

    def look(self) -> None:
        """Take over once the other process has ended, and say what becomes of the deployments."""
        if self._waits and not is_served(self._root):
            print("The other process has ended: the deployments are served from here.", flush=True)
            self._waits = False
            self._process = start_runner(self._root)
        if self._waits or self._failed or self._process.poll() is None:
            return
        # the pages are there all the same
        if self._process.returncode == SERVED_ELSEWHERE:
            self._waits = True
            about = "Another process serves the deployments; this one does when that has ended."
        else:
            self._failed = True
            about = f"The deployments are not served here; see {_log(self._root, DEPLOYMENTS)}"
        print(about, flush=True)

    def stop(self) -> None:
        """End it, and the run that it has begun, in order."""
        stop(self._process, signal.SIGINT, _RUNNER_SECONDS)


def wait_for_end(root: Path, mlflow: MlflowServer | None, runner: DeploymentRunner) -> NoReturn:
    """Wait until MLflow's server ends, which raises RlhfError that names its log."""
    while True:
        if mlflow is not None and mlflow.process.poll() is not None:
            raise RlhfError(f"the MLflow server stopped; see {_log(root, MLFLOW)}")
        # that of another `make ui`, which has ended
        if mlflow is not None and not address_file(root).is_file():
            note_address(root, mlflow)
        runner.look()
        time.sleep(1)


def wait_for(server: MlflowServer, root: Path) -> MlflowServer:
    """Wait until the MLflow server answers, and give it; raises RlhfError that names its log.

    Where somebody took its port before it did, another one at a free port is given.
    """
    if _comes_up(server):
        return server
    if free_port(_port(server)) is None:
        stop(server.process)
        second = start_mlflow(root, wanted=0)
        if _comes_up(second):
            return second
        stop(second.process)
    raise RlhfError(f"the MLflow server did not start; see {_log(root, MLFLOW)}")


def _comes_up(server: MlflowServer) -> bool:
    end = time.monotonic() + _START_SECONDS
    while server.process.poll() is None and time.monotonic() < end:
        # another server may have taken the port that was free, and would answer too
        if _answers(server.address) and _listens(server):
            return True
        time.sleep(0.2)
    return False


def note_address(root: Path, mlflow: MlflowServer) -> None:
    """Write where the pages of runs link to; that of another `make ui` stays while it answers."""
    path = address_file(root)
    if not (path.is_file() and _answers(read_json(path)["address"])):
        write_json(path, {"address": mlflow.address})


def forget_address(root: Path, mlflow: MlflowServer | None) -> None:
    """Take back where MLflow's pages are, unless another `make ui` has written its own."""
    path = address_file(root)
    if mlflow is not None and path.is_file() and read_json(path)["address"] == mlflow.address:
        path.unlink(missing_ok=True)


def stop(
    server: subprocess.Popen[bytes],
    request: signal.Signals = signal.SIGTERM,
    seconds: float = _STOP_SECONDS,
) -> None:
    """Stop a server and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, request)
    try:
        # it lets its workers finish what they do
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _log(root: Path, name: str) -> Path:
    return root / "logs" / f"{name}.log"


def _port(server: MlflowServer) -> int:
    return int(server.address.rpartition(":")[2])


def _listens(server: MlflowServer) -> bool:
    """Whether it is this server, or a worker of it, that has the port."""
    port = _port(server)
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(server.process.pid)
        for process in (first, *first.children(recursive=True)):
            connections = process.net_connections(kind="tcp")
            if any(one.laddr and one.laddr.port == port for one in connections):
                return True
    return False


def _answers(address: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/health", timeout=5).status_code == httpx.codes.OK
    return False


if __name__ == "__main__":
    main()
