"""Child processes: streamed line by line, in a process group of their own, never left behind."""

import os
import re
import select
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.guard import guard_environment, guarded_command, is_alive

# the environment variable by which the descendants of a run are recognised
MARK = "RLHF_PROCESS_MARK"
# between asking and insisting
GRACE_SECONDS = 20.0

_LAST_LINES = 20
_BLOCK = 1 << 16
_POLL_SECONDS = 0.2

OnLine = Callable[[str], None]


def run_process(
    command: Sequence[str],
    *,
    log_file: Path,
    on_line: OnLine,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    grace: float = GRACE_SECONDS,
) -> tuple[int, list[str]]:
    """Run `command`; every line of its output goes to `on_line` and to `log_file`.

    Gives exit code and last lines; a negative code is a signal's number. On any exception here,
    Ctrl-C and cancellation included, the child and its descendants are interrupted, then terminated,
    then killed, `grace` seconds apart, before the exception goes on.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    inherited = os.environ if environment is None else environment
    mark = uuid.uuid4().hex
    # for the message of a failure
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    process = subprocess.Popen(
        guarded_command(*command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env={**inherited, **guard_environment(), MARK: mark},
        # Ctrl-C comes to this process first, which then ends the whole group
        start_new_session=True,
    )
    try:
        with log_file.open("w", encoding="utf-8") as stream:
            for line in _lines(process):
                stream.write(line + "\n")
                stream.flush()
                last_lines.append(line)
                on_line(line)
        return process.wait(), list(last_lines)
    finally:
        stop_marked(process, mark, grace)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield lines until the pipe closes, or the child has ended and a grandchild holds the pipe."""
    assert process.stdout is not None
    pending = b""
    with process.stdout as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], _POLL_SECONDS)
            if ready:
                block = os.read(pipe.fileno(), _BLOCK)
                if not block:
                    break
                # progress bars end their lines by \r
                *ended, pending = re.split(rb"[\r\n]+", pending + block)
                yield from (line.decode(errors="replace") for line in ended if line)
            elif process.poll() is not None:
                break
    if pending:
        yield pending.decode(errors="replace")


def stop_marked(process: subprocess.Popen[bytes], mark: str, grace: float) -> None:
    """End all marked processes; a Ctrl-C while waiting goes on to the harder signal."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        members = _marked_processes(mark)
        if not members:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        # those in sessions of their own are not of the group
        if signum == signal.SIGKILL:
            _kill(members)
        with suppress(KeyboardInterrupt):
            _wait(process, members, grace)
    process.wait()


def _marked_processes(mark: str) -> list[psutil.Process]:
    """The living processes that inherited the mark: torchrun's workers have their own sessions."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and is_alive(process):
                marked.append(process)
    return marked


def _kill(members: Sequence[psutil.Process]) -> None:
    for member in members:
        with suppress(psutil.Error):
            member.kill()


def _wait(
    process: subprocess.Popen[bytes], members: Sequence[psutil.Process], seconds: float
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # reaps it
        process.poll()
        if not any(is_alive(member) for member in members):
            return
        time.sleep(_POLL_SECONDS / 4)
