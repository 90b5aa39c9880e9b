"""Which execution of the pipeline a stage belongs to: the `pipeline` flow, a `dvc repro` by hand, or itself alone."""

import os
import socket
from dataclasses import dataclass
from pathlib import PurePath

import psutil

VARIABLE = "RLHF_EXECUTION"


@dataclass(frozen=True)
class Execution:
    """`key` is the same for all stages of one execution and for no other; `owner` lives as long as the execution."""

    key: str
    owner: psutil.Process


def current_execution() -> Execution:
    """Find this process' execution: by the environment, or else the nearest `dvc` that started it, or else itself."""
    ancestors = psutil.Process().parents()
    owner = next((process for process in ancestors if is_dvc(process)), psutil.Process())
    return Execution(os.environ.get(VARIABLE) or key_of(owner), owner)


def key_of(process: psutil.Process) -> str:
    """Name a process for good: ids are used again, together with host and start time they are not."""
    return f"{socket.gethostname()}-{process.pid}-{process.create_time():.2f}"


def is_dvc(process: psutil.Process) -> bool:
    """Whether a process is DVC's command, started as `dvc` or as `python -m dvc`."""
    try:
        words = process.cmdline()[:3]
    except psutil.Error:
        return False
    return any(PurePath(word).name == "dvc" for word in words)
