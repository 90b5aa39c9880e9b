"""A training stage on several hosts: `python -m tasks.hosts STAGE` in the workspace; `--check` starts none.

On each host the launcher of the settings (ssh) runs `tasks.node`, which runs torchrun there. The pipe to
it is the lifeline: when one host's processes fail, and when this process ends for whatever reason, the
pipes close and all hosts end theirs.
"""

import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlhf.common.command import run_as_command
from rlhf.common.errors import RlhfError
from rlhf.settings import load_settings
from rlhf.settings.hosts import Hosts, host_slots
from rlhf.workspace import Workspace
from tasks.guard import PARENT_VARIABLE
from tasks.host_messages import heard
from tasks.node import BEAT_SECONDS, START, HostOrder, versions
from tasks.process import GRACE_SECONDS, MARK

# of the project that all hosts run
_ROOT = Path(__file__).resolve().parents[1]
# of launchers and imports on a slow disk
_READY_SECONDS = 300.0
# what the other hosts have to say once one has failed: often they see only that it is gone
_MORE_SECONDS = 2.0
# a host asks its processes three times
_END_SECONDS = 3 * GRACE_SECONDS
_TICK_SECONDS = 0.2
_LAST_LINES = 8
# what no training process needs: records, keys of stores, and what belongs to one machine
_KEPT_HERE = ("AWS_", "DVC_", "MLFLOW_", "PREFECT_", "SSH_", MARK, PARENT_VARIABLE)

Events = queue.Queue[tuple["HostProcess", str]]


@dataclass(frozen=True)
class HostFault:
    """How a host failed: the first of its ranks that did, or None, and the exit code."""

    host: str
    rank: int | None
    code: int


class HostProcess:
    """The launcher's process for one host, and what its other end said."""

    def __init__(self, order: HostOrder, command: Sequence[str], events: Events) -> None:
        self.order = order
        self.ready = False
        self.refused: str | None = None
        # before it is ready
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # a Ctrl-C is for this process, which closes the pipe
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    @property
    def host(self) -> str:
        """Its name in the settings."""
        return self.order.host

    def say(self, line: str) -> None:
        """Send a line; one that has ended is known by its exit code."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Let the host end its processes."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def code(self) -> int | None:
        """The exit code, once it has ended and all it said is read."""
        code = self.process.poll()
        if code is not None:
            # what it left behind may hold the pipe
            self._reader.join(1.0)
        return code

    def _read(self, events: Events) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, line.rstrip("\n")))


class HostGroup:
    """All hosts of a stage: they begin together and end together."""

    def __init__(
        self, orders: Sequence[HostOrder], launching: Callable[[str, str], list[str]]
    ) -> None:
        self._events: Events = queue.Queue()
        self._faults: list[HostFault] = []
        self._beaten = time.monotonic()
        command = (
            f"cd {shlex.quote(str(_ROOT))} && exec {shlex.quote(sys.executable)} -m tasks.node"
        )
        self.hosts: list[HostProcess] = []
        for order in orders:
            host = HostProcess(order, launching(order.host, command), self._events)
            self.hosts.append(host)
            host.say(order.text())

    def wait_ready(self) -> None:
        """Wait until each has passed its checks; raises RlhfError with what each of the others lacks."""
        self._until(lambda: all(map(_has_answered, self.hosts)), _READY_SECONDS)
        if problems := [_problem(host) for host in self.hosts if not host.ready]:
            raise RlhfError("\n".join(problems))

    def run(self) -> None:
        """Let all begin, and pass on what they say; raises RlhfError for the host that failed first."""
        for host in self.hosts:
            host.say(START)
        self._until(lambda: bool(self._failed()) or self._all_ended())
        if self._failed():
            self._until(self._all_ended, _MORE_SECONDS)
            raise RlhfError(self._told())

    def end(self) -> None:
        """End what still runs anywhere."""
        for host in self.hosts:
            host.close()
        self._until(self._all_ended, _END_SECONDS)
        for host in self.hosts:
            host.process.kill()
            host.process.wait()

    def _until(self, done: Callable[[], bool], seconds: float = float("inf")) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            with suppress(queue.Empty):
                self._hear(*self._events.get(timeout=_TICK_SECONDS))
            self._beat()
        self._hear_all()

    def _hear_all(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._hear(*self._events.get_nowait())

    def _hear(self, host: HostProcess, line: str) -> None:
        message = heard(line)
        if message is None:
            host.lines = [*host.lines, line][-_LAST_LINES:]
            # whoever cancelled does not listen any more
            with suppress(BrokenPipeError):
                if host.ready:
                    print(line if host.order.number == 0 else f"[{host.host}] {line}", flush=True)
        elif "failed" in message:
            failed = message["failed"]
            self._faults.append(HostFault(host.host, failed["rank"], failed["code"]))
        else:
            host.ready = message.get("ready", False)
            host.refused = message.get("refused")

    def _beat(self) -> None:
        if time.monotonic() - self._beaten < BEAT_SECONDS:
            return
        self._beaten = time.monotonic()
        for host in self.hosts:
            host.say("")

    def _failed(self) -> list[HostFault]:
        """The faults so far, in the order in which they were seen."""
        failed = [host for host in self.hosts if host.code()]
        # it may have said why
        self._hear_all()
        known = {fault.host for fault in self._faults}
        for host in failed:
            if host.host not in known:
                self._faults.append(HostFault(host.host, None, host.process.returncode))
        return self._faults

    def _all_ended(self) -> bool:
        return all(host.code() is not None for host in self.hosts)

    def _told(self) -> str:
        """The message for the fault that the others follow from."""
        # whoever lost it may have failed a moment sooner
        killed = [fault for fault in self._faults if fault.code == -signal.SIGKILL]
        fault = (killed or self._faults)[0]
        order = next(host.order for host in self.hosts if host.host == fault.host)
        log = order.log_of(fault.rank)
        try:
            text = log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.split("\n") if line and heard(line) is None]
        return "\n".join([f"{_reason(fault)}; its log is {log}", *lines[-_LAST_LINES:]])


def _has_answered(host: HostProcess) -> bool:
    return host.ready or host.refused is not None or host.code() is not None


def _problem(host: HostProcess) -> str:
    if host.refused is not None:
        return f"host {host.host}: {host.refused}"
    said = "".join(f"\n  {line}" for line in host.lines)
    code = host.code()
    if code is None:
        return f"host {host.host}: no answer within {_READY_SECONDS:.0f} s{said}"
    return f"host {host.host}: could not be started (exit code {code} of its launcher){said}"


def _reason(fault: HostFault) -> str:
    if fault.rank is None:
        return f"host {fault.host} was lost (exit code {fault.code} of its launcher)"
    if fault.code >= 0:
        return f"host {fault.host}: rank {fault.rank} failed (exit code {fault.code})"
    hint = ", perhaps for want of memory" if fault.code == -signal.SIGKILL else ""
    return f"host {fault.host}: rank {fault.rank} was killed by signal {-fault.code}{hint}"


# -- the command -----------------------------------------------------------------------------------


def main() -> int:
    """Run a stage on the hosts of the settings, or look at them; gives the exit code."""
    if len(sys.argv) != 2:
        print("usage: python -m tasks.hosts STAGE | --check", file=sys.stderr)
        return 2
    (name,) = sys.argv[1:]
    return run_as_command(partial(_run, None if name == "--check" else name))


def _run(stage: str | None) -> None:
    workspace = Workspace(Path())
    settings = load_settings(workspace.params)
    if settings.hosts is None:
        raise RlhfError("params.yaml: hosts is null: there is this machine alone")
    slots = host_slots(settings.hosts, settings.engine.processes, workspace.root)
    with _token(workspace) as token:
        orders = host_orders(stage, settings.hosts, slots, token)
        group = HostGroup(orders, settings.hosts.launching)
        try:
            group.wait_ready()
            if stage is not None:
                shutil.rmtree(workspace.logs / stage, ignore_errors=True)
                group.run()
        finally:
            group.end()
    if stage is None:
        print(", ".join(f"{host} x {count}" for host, count in slots.items()))


def host_orders(
    stage: str | None, hosts: Hosts, slots: Mapping[str, int], token: Path
) -> list[HostOrder]:
    """What each host is to do in the workspace that is the current directory."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_KEPT_HERE)}
    meeting = [
        "--master-addr",
        hosts.address or next(iter(slots)),
        "--master-port",
        str(hosts.port),
    ]
    return [
        HostOrder(
            host=host,
            number=number,
            slots=count,
            stage=stage or "",
            workspace=str(Path.cwd()),
            token=str(token),
            command=[
                *(sys.executable, "-m", "tasks.torchrun"),
                *("--nnodes", str(len(slots)), "--node-rank", str(number), *meeting),
                *("--nproc-per-node", str(count), "-m", "rlhf.commands.worker", stage or ""),
            ],
            environment=kept,
            versions=versions(),
        )
        for number, (host, count) in enumerate(slots.items())
    ]


@contextmanager
def _token(workspace: Workspace) -> Iterator[Path]:
    """A new file that a host sees if its workspace is this one."""
    path = workspace.logs / f".hosts-{uuid.uuid4().hex}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
