"""Waiting for other processes and threads, with a limit that a busy machine never reaches."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

# for what takes a second or two on an idle machine
SECONDS = 600.0
_PAUSE = 0.02


def wait_until(condition: Callable[[], object], problem: str, seconds: float = SECONDS) -> None:
    """Wait until `condition` holds; fails with `problem` if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds:.0f} s: {problem}"
        time.sleep(_PAUSE)


def wait_for_text(path: Path, text: str) -> None:
    """Wait until a file holds a text."""

    def holds() -> bool:
        # it may be replaced between the two looks
        with suppress(FileNotFoundError):
            return text in path.read_text()
        return False

    wait_until(holds, f"{path} never held {text!r}")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for by its parent or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(*pids: int) -> None:
    """Wait until these processes have ended."""
    wait_until(lambda: all(map(is_gone, pids)), f"of {pids} some live")


def processes_below(directory: Path) -> list[psutil.Process]:
    """The living processes that work at or below a directory, but for this one."""
    found = []
    for process in psutil.process_iter():
        # it may end while it is looked at
        with suppress(psutil.Error, OSError):
            works_there = Path(process.cwd()).is_relative_to(directory.resolve())
            if works_there and process.pid != os.getpid() and not is_gone(process.pid):
                found.append(process)
    return found


def kill_below(directory: Path) -> None:
    """Kill all that works at or below a directory, also what is started meanwhile."""

    def none_is_left() -> bool:
        left = processes_below(directory)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    wait_until(none_is_left, f"processes work in {directory}")
