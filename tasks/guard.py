"""No process outlives the one that it works for, even one that is killed and cannot clean up.

`python -m tasks.guard COMMAND ...` runs a command that Linux ends with its parent (elsewhere it runs
unguarded). `terminate_with` ends the present process with any other one, which need not be its
parent. `hangup_as_sigterm` ends it in order when its terminal closes.
"""

import ctypes
import os
import signal
import sys
import threading
import time

import psutil

from rlhf.common.command import TERMINATED

# carries the id of the process that a guarded command works for
PARENT_VARIABLE = "RLHF_GUARD_PARENT"

_PR_SET_PDEATHSIG = 1
# a stage asks its own worker three times before it gives up
_GRACE_SECONDS = 90.0
_POLL_SECONDS = 0.5

_hung_up = threading.Event()


def guarded_command(*command: str) -> list[str]:
    """Give the command line that runs `command` under the guard."""
    return [sys.executable, "-m", "tasks.guard", *command]


def guard_environment() -> dict[str, str]:
    """Give what the environment of a command guarded by this process has on top."""
    return {PARENT_VARIABLE: str(os.getpid())}


def terminate_with(owner: psutil.Process, grace: float = _GRACE_SECONDS) -> None:
    """Send this process SIGTERM when `owner` ends, and SIGKILL `grace` seconds later.

    Asking the kernel does not do here: between DVC and a stage there may be a shell, which outlives
    DVC. Nor does psutil's wait: a dead process whose parent has not asked for its exit code yet
    still counts as present there.
    """

    def watch() -> None:
        while is_alive(owner):
            time.sleep(_POLL_SECONDS)
        # a closed terminal ends the owner too, and a second SIGTERM would disturb the first
        if not _hung_up.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="terminate with owner", daemon=True).start()


def hangup_as_sigterm() -> None:
    """Take the first SIGHUP (a closed terminal, a dropped ssh) for a SIGTERM.

    One that is ignored, as under nohup, stays ignored. Prefect catches nothing but SIGTERM: a
    process that SIGHUP ends leaves its records running for ever.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate_once)


def _terminate_once(_signal: int, _frame: object) -> None:
    # the shell sends one and the kernel another
    if not _hung_up.is_set():
        _hung_up.set()
        signal.raise_signal(signal.SIGTERM)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs: a zombie does not, nor one that may not be looked at."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def main() -> None:
    """Become the command given as arguments."""
    parent = int(os.environ.pop(PARENT_VARIABLE, "0"))
    if sys.platform == "linux":
        # the kernel sends SIGTERM when the parent ends; this survives exec
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # the parent may have ended before that
    if parent and os.getppid() != parent:
        sys.exit(TERMINATED)
    # A script's `&` has it ignored, for all that is started below too; the parent asks with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
