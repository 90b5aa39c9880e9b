"""No process outlives the one that it works for, even where that one is killed outright and cannot clean up.

`python -m tasks.guard COMMAND ...` runs a command that Linux ends with its parent (elsewhere it runs unguarded);
`end_with` does it for the present process and any other one, which need not be its parent; `heed_hangup` has it end in
order with its terminal.
"""

import ctypes
import os
import signal
import sys
import threading
import time

import psutil

_PR_SET_PDEATHSIG = 1
_INSIST_SECONDS = 90.0  # a stage asks its own worker three times before it gives up
_LOOK_SECONDS = 0.5
_hung_up = threading.Event()


def die_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process when its parent ends; survives exec. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with(owner: psutil.Process, insist: float = _INSIST_SECONDS) -> None:
    """Send this process SIGTERM when `owner` ends, and SIGKILL `insist` seconds later if it is still there.

    Asking the kernel does not do here: between DVC and a stage there may be a shell, which outlives DVC. Nor does
    psutil's wait: a dead process whose parent has not asked for its exit code yet still counts as present there.
    """

    def watch() -> None:
        while alive(owner):
            time.sleep(_LOOK_SECONDS)
        if (
            not _hung_up.is_set()
        ):  # a closed terminal ends the owner too, and a second SIGTERM would disturb the first
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(insist)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with owner", daemon=True).start()


def heed_hangup() -> None:
    """Take the first SIGHUP (a closed terminal, a dropped ssh) for a SIGTERM; one that is ignored, as under nohup, stays so.

    Nothing but SIGTERM is caught by Prefect: a process that SIGHUP ends leaves its records running for ever.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate_once)


def _terminate_once(_signal: int, _frame: object) -> None:
    if not _hung_up.is_set():  # the shell sends one and the kernel another
        _hung_up.set()
        signal.raise_signal(signal.SIGTERM)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs: a zombie does not, nor one that may not be looked at."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def main() -> None:
    """Become the command given as arguments; `RLHF_GUARD_PARENT` is the parent's id, checked against a lost race."""
    parent = int(os.environ.pop("RLHF_GUARD_PARENT", "0"))
    die_with_parent()
    if parent and os.getppid() != parent:
        sys.exit(143)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
