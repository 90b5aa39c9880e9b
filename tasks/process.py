"""Child processes: streamed line by line, in a process group of their own, never left behind."""

import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.guard import alive

GRACE_SECONDS = 20.0  # between asking and insisting
_KEPT_LINES = 20
MARK = "RLHF_PROCESS_MARK"  # who inherits it is ended with the run that gave it
_POLL_SECONDS = 0.2


def run_process(
    command: Sequence[str],
    *,
    log: Path,
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    grace: float = GRACE_SECONDS,
) -> tuple[int, list[str]]:
    """Run `command`, hand every line of its output to `say` and to the file `log`; give exit code and last lines.

    A negative code is a signal's number. On any exception here, Ctrl-C and cancellation included, the child and
    its descendants are interrupted, then terminated, then killed, `grace` seconds apart, before the exception goes on.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    inherited = os.environ if environment is None else environment
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.guard", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env={**inherited, "RLHF_GUARD_PARENT": str(os.getpid()), MARK: mark},
        start_new_session=True,
    )
    try:
        with log.open("w", encoding="utf-8") as stream:
            for line in _lines(process):
                stream.write(line + "\n")
                stream.flush()
                last.append(line)
                say(line)
        return process.wait(), list(last)
    finally:
        stop_group(process, mark, grace)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield lines until the pipe closes, or until the child has ended and a grandchild merely holds the pipe open."""
    assert process.stdout is not None
    pending = b""
    with process.stdout as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], _POLL_SECONDS)
            if ready:
                block = os.read(pipe.fileno(), 1 << 16)
                if not block:
                    break
                *whole, pending = re.split(rb"[\r\n]+", pending + block)
                yield from (line.decode(errors="replace") for line in whole if line)
            elif process.poll() is not None:
                break
    if pending:
        yield pending.decode(errors="replace")


def stop_group(process: subprocess.Popen[bytes], mark: str, grace: float) -> None:
    """End all marked processes; a Ctrl-C while waiting goes on to the harder signal."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        rest = _marked(mark)
        if not rest:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        if signum == signal.SIGKILL:
            for member in rest:
                with suppress(psutil.Error):
                    member.kill()
        with suppress(KeyboardInterrupt):
            _wait(process, rest, grace)
    process.wait()


def _marked(mark: str) -> list[psutil.Process]:
    """List the living processes that inherited the mark: torchrun gives its workers sessions of their own."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and alive(process):
                found.append(process)
    return found


def _wait(process: subprocess.Popen[bytes], members: list[psutil.Process], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process.poll()  # reaps it
        if not any(alive(member) for member in members):
            return
        time.sleep(_POLL_SECONDS / 4)
