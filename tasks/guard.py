"""Run a command that must not outlive its parent: `python -m tasks.guard COMMAND ...`.

A parent that is killed outright (SIGKILL, out of memory) cannot clean up; Linux then ends the child for it.
Elsewhere the command runs unguarded.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process when its parent ends; survives exec. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> None:
    """Become the command given as arguments; `RLHF_GUARD_PARENT` is the parent's id, checked against a lost race."""
    parent = int(os.environ.pop("RLHF_GUARD_PARENT", "0"))
    die_with_parent()
    if parent and os.getppid() != parent:
        sys.exit(143)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
