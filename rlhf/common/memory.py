"""Giving memory back to the system: the allocator's settings on a CPU (tasks/worker.py) keep every block otherwise."""

import ctypes
import sys


def release() -> None:
    """Let glibc return the free pages of its heap; batches of changing shapes leave gigabytes of them. Else nothing."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
        if trim is not None:
            trim(0)
