"""Giving memory back to the system.

The allocator's settings on a CPU (tasks/worker.py) keep every block otherwise.
"""

import ctypes
import sys


def release() -> None:
    """Let glibc return the free pages of its heap; elsewhere nothing.

    Batches of changing shapes leave gigabytes of them.
    """
    if sys.platform == "linux":
        # musl has none
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
