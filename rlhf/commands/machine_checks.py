"""What of the machine the chain needs: Python, cores, memory, disk, GPU, compiler."""

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from rlhf.commands.check import Check
from rlhf.settings import Settings

GIB = 1 << 30
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_INSTALL = "install the pinned packages: pip install -e . -c requirements.lock"


# -- what there is --------------------------------------------------------------------------------


def usable_memory() -> int:
    """Bytes that this process may use: the machine's, or the container's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = "max"
    if _CGROUP_LIMIT.is_file():
        text = _CGROUP_LIMIT.read_text(encoding="utf-8").strip()
    return min(total, int(text)) if text.isdigit() else total


def bf16_instructions() -> list[str]:
    """The processor's fast bf16 instructions; none where the packages that know are missing."""
    try:
        from rlhf.engine import precision
    except ImportError:
        # the packages' own check names what is missing
        return []
    return precision.bf16_instructions()


# -- whether it is enough -------------------------------------------------------------------------


def python_check(version: tuple[int, ...]) -> Check:
    """The pinned packages are for Python 3.11."""
    if version == (3, 11):
        return Check("python", "ok", platform.python_version())
    found = ".".join(map(str, version))
    advice = "make the virtual environment with Python 3.11; the pins are for it"
    return Check("python", "fault", found, advice)


def cores_check(cores: int) -> Check:
    """Cores that this process may use."""
    if cores >= 2:
        return Check("cores", "ok", str(cores))
    advice = "expect twice the time of two cores; the preset tiny runs anywhere"
    return Check("cores", "note", str(cores), advice)


def memory_check(total: int) -> Check:
    """Memory (bytes) against what the presets take: `laptop` about 7 GiB, `tiny` 2."""
    found = f"{total / GIB:.1f} GiB"
    if total < 2 * GIB:
        return Check("memory", "fault", found, "less than the preset tiny takes (2 GiB)")
    # the default, which a newcomer runs first
    if total < 7 * GIB:
        advice = (
            "PPO of the preset laptop takes about 7 GiB: lower ppo.micro_batch, "
            "set ppo.trainable_layers or ppo.lora, or use tiny"
        )
        return Check("memory", "note", found, advice)
    return Check("memory", "ok", found)


def disk_check(free: int) -> Check:
    """Free bytes against models, checkpoints and DVC's cache: `laptop` about 8 GiB."""
    found = f"{free / GIB:.1f} GiB free"
    if free < GIB:
        advice = "make room: even the preset tiny needs some, laptop about 8 GiB"
        return Check("disk", "fault", found, advice)
    if free < 8 * GIB:
        advice = "the preset laptop takes about 8 GiB of models, checkpoints and DVC cache"
        return Check("disk", "note", found, advice)
    return Check("disk", "ok", found)


def gpu_check(settings: Settings | None) -> Check:
    """GPUs that torch can use, against `engine.processes`."""
    try:
        import torch
    except ImportError as error:
        return Check("gpu", "fault", f"torch: {error}", _INSTALL)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return Check("gpu", "note", "none", _advice_without_gpu())
    found = f"{count} x {torch.cuda.get_device_name(0)}"
    # the processes are spread over all hosts
    if settings is not None and settings.hosts is not None:
        return Check("gpu", "ok", found)
    # settings that cannot be read have a check of their own
    processes = settings.engine.processes if settings is not None else 1
    if processes > count:
        advice = f"engine.processes is {processes}; set it to at most {count}"
        return Check("gpu", "fault", found, advice)
    if processes < count:
        advice = f"{processes} in use; engine.kind: deepspeed with more processes uses the others"
        return Check("gpu", "note", found, advice)
    return Check("gpu", "ok", found)


def _advice_without_gpu() -> str:
    if shutil.which("nvidia-smi") is not None:
        return "torch cannot use the GPU here: install a CUDA build of the pinned torch"
    return "not needed for the presets tiny, laptop and hh-small; hh-7b wants eight"


def bf16_check(instructions: Sequence[str], settings: Settings | None) -> Check:
    """Whether the processor is faster in bf16 than in fp32."""
    if instructions:
        return Check("bf16", "ok", ", ".join(instructions))
    advice = "on this processor bf16 is slower than fp32"
    if settings is not None and settings.engine.precision == "bf16":
        advice += ": set engine.precision: auto"
    return Check("bf16", "note", "no fast instructions", advice)


def compiler_check(path: str | None) -> Check:
    """A C++ compiler, which only DeepSpeed's own kernels need."""
    if path is not None:
        return Check("c++", "ok", path)
    advice = "not needed here; DeepSpeed compiles its optional kernels with it"
    return Check("c++", "note", "none", advice)
