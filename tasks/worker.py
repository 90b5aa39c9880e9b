"""The command line and the environment of a stage's worker.

It is `rlhf.commands.worker`, in one process or under torchrun; on several hosts `tasks.hosts` starts
it on each.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rlhf.settings import Settings
from rlhf.stages import STAGES

_GPU = Path("/dev/nvidiactl")
# keeps large blocks in the process: a quarter off forward and backward on a CPU
_LARGE_PAGES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=8589934592",
        "glibc.malloc.trim_threshold=8589934592",
    )
)
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}


def worker_command(stage: str, settings: Settings) -> list[str]:
    """Give the command that runs `stage` in the workspace that is its current directory."""
    if on_several_hosts(stage, settings):
        return [sys.executable, "-m", "tasks.hosts", stage]
    processes = settings.engine.processes
    launcher = []
    if trains(stage) and processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(processes)]
    return [sys.executable, *launcher, "-m", "rlhf.commands.worker", stage]


def match_command(challenger: Path, baseline: Path, output: Path) -> list[str]:
    """Give the command that compares two model directories.

    It uses the workspace that is its current directory.
    """
    module = "rlhf.evaluation.match"
    return [sys.executable, "-m", module, str(challenger), str(baseline), str(output)]


def worker_environment(
    stage: str, settings: Settings, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Give the worker's environment: `inherited`, and what its kind of work wants.

    No network but where the table of stages says so; then what the machine wants, which on several
    hosts each adds for itself.
    """
    environment = dict(inherited)
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if stage not in STAGES or not STAGES[stage].downloads:
        environment |= _OFFLINE
    if on_several_hosts(stage, settings):
        return environment
    return machine_environment(
        settings, settings.engine.processes if trains(stage) else 1, environment
    )


def machine_environment(
    settings: Settings, processes: int, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Give `inherited`, and what `processes` on this machine want.

    The allocator's setting on a CPU; their share of the cores.
    """
    environment = dict(inherited)
    if not _GPU.exists():
        # or DeepSpeed warns that it found no other
        environment.setdefault("DS_ACCELERATOR", "cpu")
        if sys.platform == "linux":
            environment.setdefault("GLIBC_TUNABLES", _LARGE_PAGES)
    # or torchrun gives each process one thread
    if processes > 1:
        share = max((os.cpu_count() or 1) // processes, 1)
        environment.setdefault("OMP_NUM_THREADS", str(settings.engine.threads or share))
    return environment


def on_several_hosts(stage: str, settings: Settings) -> bool:
    """Whether the hosts of the settings share a stage's processes."""
    return trains(stage) and settings.hosts is not None


def trains(stage: str) -> bool:
    """Whether a stage trains, on as many processes as the settings say.

    The arms of a study are no stages of the table: they start their own processes.
    """
    return stage in STAGES and STAGES[stage].trains
