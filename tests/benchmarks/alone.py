"""Measuring in a process of its own, so that memory and threads are those of no other measurement."""

import multiprocessing
import os
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from time import monotonic
from typing import Any

_GIB = 2**30


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, and give what it returns.

    What it prints goes nowhere; what it raises, or that it was killed, is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _quiet) as pool:
        return pool.submit(function, *arguments).result()


def _quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def clock() -> float:
    """Seconds, once the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return monotonic()


def peak() -> float:
    """Peak GiB of this process: of the GPU where there is one, else of memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
