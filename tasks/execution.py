"""Which execution of the pipeline a stage belongs to.

That is a run of the `pipeline` flow, a `dvc repro` by hand, or the stage alone.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath

import psutil

# the environment variable by which a flow names the execution of all stages that it starts
EXECUTION_VARIABLE = "RLHF_EXECUTION"
# the one by which DVC tells what it starts which stage that is
_DVC_VARIABLE = "DVC_STAGE"


@dataclass(frozen=True)
class Execution:
    """One execution of the pipeline.

    key: the same for all its stages, and for no other execution
    owner: the process that lives as long as the execution
    """

    key: str
    owner: psutil.Process


def current_execution() -> Execution:
    """Find this process' execution.

    The environment names it, or else the nearest `dvc` that started this process, or else this
    process itself.
    """
    # between DVC and a stage there may be a shell
    ancestors = psutil.Process().parents()
    owner = next((process for process in ancestors if is_dvc(process)), psutil.Process())
    return Execution(os.environ.get(EXECUTION_VARIABLE) or process_key(owner), owner)


def has_lost_its_dvc(execution: Execution) -> bool:
    """Whether DVC started this process and is gone already.

    What a stage imports takes seconds, in which a killed DVC has nobody who would notice.
    """
    return _DVC_VARIABLE in os.environ and not is_dvc(execution.owner)


@contextmanager
def named_execution(key: str) -> Iterator[None]:
    """Name the execution of all stages that are started in the block."""
    os.environ[EXECUTION_VARIABLE] = key
    try:
        yield
    finally:
        del os.environ[EXECUTION_VARIABLE]


def process_key(process: psutil.Process) -> str:
    """Name a process for good: ids are used again, with host and start time they are unique."""
    return f"{socket.gethostname()}-{process.pid}-{process.create_time():.2f}"


def is_dvc(process: psutil.Process) -> bool:
    """Whether a process is DVC's command: `dvc`, `python -m dvc`, with an option of Python or without."""
    try:
        # the command's own words follow
        arguments = process.cmdline()[:4]
    # it has ended, or is another user's
    except psutil.Error:
        return False
    return any(PurePath(argument).name == "dvc" for argument in arguments)
