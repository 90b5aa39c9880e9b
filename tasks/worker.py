"""The command line and the environment of a stage's worker: `rlhf.commands.worker` in one process or under torchrun."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rlhf.settings import Settings
from rlhf.stages import STAGES

_GPU = Path("/dev/nvidiactl")
_LARGE_PAGES = (  # keeps large blocks in the process: a quarter off forward and backward on a CPU
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592"
)


def worker_command(stage: str, settings: Settings) -> list[str]:
    """Give the command that runs `stage` in the workspace that is its current directory."""
    processes = settings.engine.processes
    if trains(stage) and processes > 1:
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
    else:
        launcher = []
    return [sys.executable, *launcher, "-m", "rlhf.commands.worker", stage]


def match_command(challenger: Path, baseline: Path, output: Path) -> list[str]:
    """Give the command that compares two model directories on the workspace that is its current directory."""
    return [
        sys.executable,
        "-m",
        "rlhf.evaluation.match",
        *map(str, (challenger, baseline, output)),
    ]


def worker_environment(
    stage: str, settings: Settings, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Give the worker's environment: `inherited`, no network but for `fetch`, the allocator's setting on a CPU."""
    environment = dict(inherited)
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if stage != "fetch":
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        }
    if not _GPU.exists():
        environment.setdefault("DS_ACCELERATOR", "cpu")  # or it warns that it found no other
        if sys.platform == "linux":
            environment.setdefault("GLIBC_TUNABLES", _LARGE_PAGES)
    if trains(stage) and settings.engine.processes > 1:
        cores = settings.engine.threads or max(
            (os.cpu_count() or 1) // settings.engine.processes, 1
        )
        environment.setdefault("OMP_NUM_THREADS", str(cores))
    return environment


def trains(stage: str) -> bool:
    """Whether a stage trains, on as many processes as the settings say; an arm of a study has its own."""
    return stage in STAGES and STAGES[stage].trains
