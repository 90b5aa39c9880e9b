"""Both user interfaces on loopback: `python -m flows.ui`. Flows that start while it runs use its Prefect server."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from flows.stage import exit_code
from rlhf.common.errors import RlhfError
from tasks.server import HOST, free_port, release, shared_server
from tasks.tracking import shown, tracking_uri

MLFLOW_PORT = 5000  # MLflow's own; another one if it is taken
_START_SECONDS = 600.0


def main() -> None:
    """Start what is not running yet, print both addresses, stop on Ctrl-C, SIGTERM or SIGHUP what nobody else uses."""
    root, own = Path(), psutil.Process()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with exit_code():
        mlflow = None
        try:
            uri = os.environ.get("MLFLOW_TRACKING_URI")
            if not uri:
                address, mlflow = start_mlflow(root)  # while Prefect's server starts
            prefect_url = shared_server(root, own)
            print(f"Prefect  {shown(prefect_url.removesuffix('/api'))}", flush=True)
            if mlflow is None:
                print(
                    f"MLflow   {shown(uri or '')} (MLFLOW_TRACKING_URI; not started here)",
                    flush=True,
                )
            else:
                wait_for(mlflow, address, root)
                print(f"MLflow   {address}", flush=True)
            print("Ctrl-C stops both.", flush=True)
            while mlflow is None or mlflow.poll() is None:
                time.sleep(1)
            raise RlhfError(f"the MLflow server stopped; see {_log(root)}")
        except KeyboardInterrupt:
            print("stopping")
        finally:
            if mlflow is not None:
                stop(mlflow)
            if not release(root, own):
                print("The Prefect server stays until the runs that use it end.")


def start_mlflow(root: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Start an MLflow server on the workspace's database, give the address at which it will answer."""
    log = _log(root)
    log.parent.mkdir(exist_ok=True)
    port = free_port(MLFLOW_PORT) or free_port(0)
    guarded = [sys.executable, "-m", "tasks.guard", sys.executable, "-m", "mlflow", "server"]
    command = [
        *guarded,
        "--backend-store-uri",
        tracking_uri(root),
        "--host",
        HOST,
        "--port",
        str(port),
    ]
    with log.open("w", encoding="utf-8") as stream:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            env=os.environ | {"RLHF_GUARD_PARENT": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C comes here first; this process then stops it
        )
    return f"http://{HOST}:{port}", server


def wait_for(server: subprocess.Popen[bytes], address: str, root: Path) -> None:
    """Wait until the MLflow server answers; raises RlhfError that names its log."""
    end = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        if _answers(address):
            return
        time.sleep(0.2)
    raise RlhfError(f"the MLflow server did not start; see {_log(root)}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Stop a server and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _log(root: Path) -> Path:
    return root / "logs" / "mlflow-server.log"


def _answers(address: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/health", timeout=5).status_code == httpx.codes.OK
    return False


if __name__ == "__main__":
    main()
