"""Which number format `engine.precision: auto` means on this machine."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

from rlhf.settings.training import EngineSettings

Precision = Literal["fp32", "bf16"]
# bf16 against fp32, forward and backward of SmolLM2-135M, 8 x 128 tokens, 2 cores:
# AMX 2 times faster; AVX512-BF16 1.7 times faster on AMD (EPYC, Zen 4) and 1.7 times slower
# on Intel (Xeon without AMX); in software slower yet.


def precision_of(settings: EngineSettings) -> Precision:
    """The precision that the settings ask for; `auto` is bf16 where that is faster, else fp32."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if faster_in_bf16() else "fp32"


def faster_in_bf16() -> bool:
    """Whether the device that an engine uses, the GPU if there is one, has fast hardware for bf16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """The processor's instructions that multiply bf16 faster than fp32, by their usual names."""
    found = torch.cpu.get_capabilities()
    if found.get("architecture") in ("aarch64", "arm64"):
        return ["bf16"] if found.get("bf16") else []
    fast = ["amx_bf16"]
    if "AMD" in (vendor() or str(found.get("cpu_name", ""))):
        fast.append("avx512_bf16")
    return [name for name in fast if found.get(name)]


def vendor() -> str:
    """The x86 processor's maker as it names itself, "" where the system does not tell.

    The model name of a virtual processor may not tell it.
    """
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("vendor_id"):
                return line.split(":")[1].strip()
    return ""
