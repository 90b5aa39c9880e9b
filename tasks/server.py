"""One Prefect server a workspace, shared by all who need it and gone when the last of them is.

Starting a server costs 6-10 s, a flow on a running one 1-2 s: the first stage of a `dvc repro` starts it in the
background and the others find it. Who needs it leaves a lease that names a process; the server's keeper stops the
server when no process with a lease lives. State is in `.prefect/` (PREFECT_HOME), where `make ui` finds every run later.
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
from typing import Any

import httpx
import psutil

from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, write_json
from tasks.environment import home_of
from tasks.execution import key_of
from tasks.process import MARK

HOST = "127.0.0.1"
PORT = 4200  # Prefect's own; another one where it is taken
_START_SECONDS = 600.0  # 6-10 s as a rule, minutes on a machine that is busy
_STOP_SECONDS = 20.0
_CHECK_SECONDS = 2.0


def shared_server(root: Path, owner: psutil.Process) -> str:
    """Give the API's address of the workspace's server, starting one if none answers.

    It runs at least until `owner` and this process have ended: an execution's later stages find it, and a stage whose
    `dvc` was killed can still tell it how it ended.
    PREFECT_API_URL, where set, wins: then the server is somebody else's care.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    with _locked(root):
        for process in (owner, psutil.Process()):
            _lease(root, process)
        return _living(root) or _start(root)


def address_file(root: Path) -> Path:
    """Where the address of the running server is written."""
    return _home(root) / "server.json"


def is_own(root: Path, url: str) -> bool:
    """Whether `url` is that of the workspace's own server, which ends with those who use it."""
    path = address_file(root)
    return path.is_file() and bool(read_json(path).get("url") == url)


def release(root: Path, owner: psutil.Process, seconds: float = 30.0) -> bool:
    """Give a lease back and wait for the server to go; False where others still need it."""
    (_home(root) / "leases" / f"{key_of(owner)}.json").unlink(missing_ok=True)
    end = time.monotonic() + seconds
    while address_file(root).exists() and time.monotonic() < end:
        with _locked(root):
            if _leased(root):
                return False
        time.sleep(0.2)
    return True


def answers(url: str) -> bool:
    """Whether the Prefect API at `url` answers and keeps its state where this process expects it.

    Another workspace's server may hold a port that was free a moment ago; runs must not end up there.
    """
    with suppress(httpx.HTTPError, ValueError):
        found = httpx.get(
            f"{url}/admin/settings", timeout=5, trust_env=False, verify=False
        )  # loopback, no TLS
        return found.status_code == httpx.codes.OK and Path(found.json()["home"]) == Path(
            os.environ["PREFECT_HOME"]
        )
    return False


def keep(root: Path, port: int) -> None:
    """Run a server until no lease is held any more: the body of the background process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server is stopped below
    command = [
        sys.executable,
        "-m",
        "tasks.guard",
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
    ]
    own = f"http://{HOST}:{port}/api"  # or the pages would ask whatever listens on Prefect's usual port
    environment = os.environ | {
        "RLHF_GUARD_PARENT": str(os.getpid()),
        "PREFECT_SERVER_UI_API_URL": own,
    }
    server = subprocess.Popen([*command, "--host", HOST, "--port", str(port)], env=environment)
    try:
        while server.poll() is None:
            time.sleep(_CHECK_SECONDS)
            with _locked(
                root, wait=False
            ) as locked:  # who holds the lock may be waiting for this very server
                if locked and not _leased(root):
                    address_file(root).unlink(missing_ok=True)
                    break
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _start(root: Path) -> str:
    """Start a keeper, detached from the terminal and its Ctrl-C, and wait until its server answers."""
    log = home_of(root) / "logs" / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    for port in (PORT, 0):  # Prefect's own if it is free, else any
        if (free := free_port(port)) is None:
            continue
        others_need_it = {key: value for key, value in os.environ.items() if key != MARK}
        with log.open("w", encoding="utf-8") as stream:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tasks.server", str(home_of(root)), str(free)],
                env=others_need_it,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        started = psutil.Process(keeper.pid).create_time()
        url = f"http://{HOST}:{free}/api"
        write_json(address_file(root), {"url": url, "pid": keeper.pid, "started": started})
        if found := _living(root):
            return found
    raise RlhfError(f"the Prefect server did not start; see {log}")


def _living(root: Path) -> str | None:
    """Give the address of the server whose keeper lives, once it answers; a keeper that never gets there is ended."""
    if not address_file(root).exists():
        return None
    record = read_json(address_file(root))
    end = time.monotonic() + _START_SECONDS
    while (keeper := _process(record)) is not None:
        if answers(str(record["url"])):
            return str(record["url"])
        if time.monotonic() > end:
            keeper.terminate()
            break
        time.sleep(0.25)
    address_file(root).unlink(missing_ok=True)
    return None


def _lease(root: Path, owner: psutil.Process) -> None:
    write_json(
        _home(root) / "leases" / f"{key_of(owner)}.json",
        {"pid": owner.pid, "started": owner.create_time()},
    )


def _leased(root: Path) -> bool:
    """Whether a process with a lease lives; leases of the dead are removed."""
    living = False
    for path in (_home(root) / "leases").glob("*.json"):
        if _process(read_json(path)) is None:
            path.unlink(missing_ok=True)
        else:
            living = True
    return living


def _process(record: Mapping[str, Any]) -> psutil.Process | None:
    """Find the living process that a record names by id and start."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(record["pid"])
        if process.create_time() == record["started"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@contextmanager
def _locked(root: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock under which servers start and stop, so that none is found while it goes; tells whether it is held."""
    _home(root).mkdir(parents=True, exist_ok=True)
    with (_home(root) / "server.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _home(root: Path) -> Path:
    return home_of(root) / ".prefect"


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
