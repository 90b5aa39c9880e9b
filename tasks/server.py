"""One Prefect server a workspace, shared by all who need it and gone when the last of them is.

Starting a server costs 6-10 s, a flow on a running one 1-2 s: the first stage of a `dvc repro` starts
it in the background and the others use it. Who needs it leaves a lease that names a process; the
server's keeper stops the server when no process with a lease lives. State is in `.prefect/`
(PREFECT_HOME), where `make ui` finds every run later.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil

from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, write_json
from tasks.environment import records_root
from tasks.execution import process_key
from tasks.guard import guard_environment, guarded_command
from tasks.process import MARK

HOST = "127.0.0.1"
# Prefect's own; another one where it is taken
PORT = 4200

# 6-10 s mostly, minutes on a machine that is busy
_START_SECONDS = 600.0
_STOP_SECONDS = 20.0
_CHECK_SECONDS = 2.0


# -- for those who use it -------------------------------------------------------------------------


def shared_server(root: Path, owner: psutil.Process) -> str:
    """Give the API's address of the workspace's server, starting one if none answers.

    It runs at least until `owner` and this process have ended: an execution's later stages use it
    too, and a stage whose `dvc` was killed can still report how it ended. PREFECT_API_URL, where set,
    wins: then the server is somebody else's care.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    with _locked(root):
        # a stage may outlive the `dvc` that it works for by a moment
        for process in (owner, psutil.Process()):
            _write_lease(root, process)
        return running_server(root) or start_server(root)


def address_file(root: Path) -> Path:
    """Where the address of the running server is written."""
    return _home(root) / "server.json"


def is_own(root: Path, url: str) -> bool:
    """Whether `url` is that of the workspace's own server, which ends with those who use it."""
    path = address_file(root)
    return path.is_file() and bool(read_json(path).get("url") == url)


def release(root: Path, owner: psutil.Process, seconds: float = 30.0) -> bool:
    """Give a lease back and wait for the server to go; False where others still need it."""
    _lease_file(root, owner).unlink(missing_ok=True)
    end = time.monotonic() + seconds
    while address_file(root).exists() and time.monotonic() < end:
        with _locked(root):
            if is_leased(root):
                return False
        time.sleep(0.2)
    return True


def answers(url: str) -> bool:
    """Whether the Prefect API at `url` answers and keeps its state where this process expects it.

    Another workspace's server may hold a port that was free a moment ago; runs must not end up there.
    """
    with suppress(httpx.HTTPError, ValueError):
        # loopback: no proxy, no TLS
        reply = httpx.get(f"{url}/admin/settings", timeout=5, trust_env=False, verify=False)
        if reply.status_code == httpx.codes.OK:
            return Path(reply.json()["home"]) == Path(os.environ["PREFECT_HOME"])
    return False


# -- starting and stopping ------------------------------------------------------------------------


def start_server(root: Path) -> str:
    """Start a keeper, detached from the terminal, and wait until its server answers.

    Raises RlhfError that names the log.
    """
    log = records_root(root) / "logs" / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # 0: any that is free
    for wanted in (PORT, 0):
        port = free_port(wanted)
        if port is None:
            continue
        with log.open("w", encoding="utf-8") as stream:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tasks.server", str(records_root(root)), str(port)],
                env=_without_mark(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                # Ctrl-C is not for it
                start_new_session=True,
            )
        url = f"http://{HOST}:{port}/api"
        write_json(address_file(root), {"url": url, **_identity(psutil.Process(keeper.pid))})
        if address := running_server(root):
            return address
    raise RlhfError(f"the Prefect server did not start; see {log}")


def _without_mark() -> dict[str, str]:
    """The environment of a process that does not end with the run that started it."""
    return {key: value for key, value in os.environ.items() if key != MARK}


def running_server(root: Path) -> str | None:
    """Give the address of the server whose keeper lives, once it answers.

    A keeper whose server never answers is ended.
    """
    if not address_file(root).exists():
        return None
    record = read_json(address_file(root))
    url = str(record["url"])
    end = time.monotonic() + _START_SECONDS
    while (keeper := _process(record)) is not None:
        if answers(url):
            return url
        if time.monotonic() > end:
            keeper.terminate()
            break
        time.sleep(0.25)
    address_file(root).unlink(missing_ok=True)
    return None


def keep(root: Path, port: int) -> None:
    """Run a server until no lease is held any more: the body of the background process."""
    # so that the server is stopped below
    signal.signal(signal.SIGTERM, _leave)
    command = [sys.executable, "-m", "prefect", "server", "start"]
    # or the pages would ask whatever listens on Prefect's usual port
    own_address = {"PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api"}
    server = subprocess.Popen(
        guarded_command(*command, "--host", HOST, "--port", str(port)),
        env=os.environ | guard_environment() | own_address,
    )
    try:
        while server.poll() is None:
            time.sleep(_CHECK_SECONDS)
            # who holds the lock may be waiting for this very server
            with _locked(root, wait=False) as locked:
                if locked and not is_leased(root):
                    address_file(root).unlink(missing_ok=True)
                    break
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _leave(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


# -- leases ---------------------------------------------------------------------------------------


def is_leased(root: Path) -> bool:
    """Whether a process with a lease lives; leases of the dead are removed."""
    leased = False
    for path in (_home(root) / "leases").glob("*.json"):
        if _process(read_json(path)) is None:
            path.unlink(missing_ok=True)
        else:
            leased = True
    return leased


def _write_lease(root: Path, owner: psutil.Process) -> None:
    write_json(_lease_file(root, owner), _identity(owner))


def _lease_file(root: Path, owner: psutil.Process) -> Path:
    return _home(root) / "leases" / f"{process_key(owner)}.json"


def _identity(process: psutil.Process) -> dict[str, Any]:
    """What `_process` finds it by: an id alone may be used again."""
    return {"pid": process.pid, "started": process.create_time()}


def _process(record: Mapping[str, Any]) -> psutil.Process | None:
    """The living process that a record names by id and start."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(record["pid"])
        same = process.create_time() == record["started"]
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@contextmanager
def _locked(root: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock under which servers start and stop, so that none is used while it goes.

    Gives whether it is held.
    """
    _home(root).mkdir(parents=True, exist_ok=True)
    with (_home(root) / "server.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _home(root: Path) -> Path:
    return records_root(root) / ".prefect"


def free_port(port: int) -> int | None:
    """Give `port`, or any for 0, if nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    return None


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
