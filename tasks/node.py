"""One host's part of a stage that runs on several: `python -m tasks.node`, started by `tasks.hosts`.

The main host speaks to it through its standard input: first the order, then `start`, then a sign of
life every few seconds. When the input ends or falls silent (the launcher was closed, the main host or
the network is gone), all processes of this host are ended: no host trains on alone.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rlhf.common.command import INTERRUPTED, run_as_command
from rlhf.common.errors import RlhfError
from rlhf.common.rank_log import RANK_LOG
from rlhf.settings import load_settings
from rlhf.workspace import Workspace
from tasks.host_messages import tell
from tasks.process import run_process
from tasks.worker import machine_environment, worker_environment

# how often the main host gives a sign of life, and after how long without one it is taken for gone
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
# the line at which all begin
START = "start"
# whose other versions may give other numbers
LIBRARIES = ("torch", "transformers", "deepspeed", "peft")

Lines = queue.Queue[str | None]


@dataclass(frozen=True)
class HostOrder:
    """What the main host wants of this one.

    number: of this host, from 0; slots: processes here
    token: a file of the workspace, new and of a name of its own
    command: what starts the processes
    environment: the variables of the main host's worker; one that is set here stays as it is here
    versions: of Python and LIBRARIES on the main host
    """

    host: str
    number: int
    slots: int
    stage: str
    workspace: str
    token: str
    command: list[str]
    environment: dict[str, str]
    versions: dict[str, str]

    def text(self) -> str:
        """The line that `read` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> "HostOrder":
        """Read an order."""
        return cls(**json.loads(line))

    def log_of(self, rank: int | str | None) -> Path:
        """The log of one of the ranks here; None: of what torchrun says, which the main process shares."""
        if rank is None and self.number == 0:
            rank = 0
        name = self.host if rank is None else f"{self.host}.rank-{rank}"
        return Path("logs") / self.stage / f"{name}.log"


def versions() -> dict[str, str]:
    """Those of Python and of LIBRARIES here."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"python": python} | {name: version(name) for name in LIBRARIES}


def main() -> int:
    """Do what the main host orders; gives the exit code."""
    # a launcher may have them ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    return run_as_command(_run)


def _run() -> None:
    lines: Lines = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    order = HostOrder.read(_next(lines))
    try:
        _check(order)
    except RlhfError as error:
        tell(refused=str(error))
        raise SystemExit(1) from None
    tell(ready=True)
    while _next(lines) != START:
        pass
    threading.Thread(target=_end_with, args=(lines,), daemon=True).start()
    code, _ = run_process(
        order.command,
        log_file=order.log_of(None),
        on_line=_pass_on,
        environment=_environment(order),
    )
    raise SystemExit(code if code >= 0 else 128 - code)


def _check(order: HostOrder) -> None:
    """Work in the main host's workspace; raises RlhfError where it or the libraries are others here."""
    workspace = Path(order.workspace)
    if not workspace.is_dir():
        raise RlhfError(f"{workspace}: no such directory; all hosts need the workspace at one path")
    if not (workspace / order.token).exists():
        raise RlhfError(
            f"{workspace} is another directory than on the main host, or a copy of it: all hosts need "
            "one shared file system, since resume checkpoints have a part from each"
        )
    here = versions()
    if wrong := [
        f"{name} {here[name]}" for name, other in order.versions.items() if here[name] != other
    ]:
        there = ", ".join(f"{name} {order.versions[name]}" for name in here)
        raise RlhfError(f"{sys.executable} has {', '.join(wrong)}; the main host has {there}")
    os.chdir(workspace)


def _environment(order: HostOrder) -> Mapping[str, str]:
    settings = load_settings(Workspace(Path()).params)
    inherited = worker_environment(order.stage, settings, {**order.environment, **os.environ})
    inherited[RANK_LOG] = str(order.log_of("{rank}"))
    return machine_environment(settings, order.slots, inherited)


def _pass_on(line: str) -> None:
    print(line, flush=True)


# -- the main host's voice -------------------------------------------------------------------------


def _read(lines: Lines) -> None:
    # unbuffered: Python aborts where its end finds a thread in the buffer of sys.stdin
    with open(0, "rb", buffering=0, closefd=False) as stream:
        for line in stream:
            lines.put(line.decode().rstrip())
    lines.put(None)


def _heard(lines: Lines) -> str | None:
    """The next line; None: the main host is gone."""
    try:
        return lines.get(timeout=SILENCE_SECONDS)
    except queue.Empty:
        return None


def _next(lines: Lines) -> str:
    line = _heard(lines)
    if line is None:
        raise SystemExit(INTERRUPTED)
    return line


def _end_with(lines: Lines) -> None:
    """Interrupt this process once nothing more is heard."""
    while _heard(lines) is not None:
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
