"""Which number format `engine.precision: auto` means on this machine."""

from typing import Literal

import torch

from rlhf.settings.schema import Engine as EngineSettings

Precision = Literal["fp32", "bf16"]
# x86 instructions that multiply bf16 faster than fp32. AVX512-BF16 alone does not (Intel Xeon without AMX: forward and
# backward of SmolLM2-135M 1.7 times slower than in fp32), and in software it is slower yet.
FAST_BF16 = ("amx_bf16",)


def precision_of(settings: EngineSettings) -> Precision:
    """The precision that the settings ask for; `auto` is bf16 where the device is faster in it, else fp32."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if faster_in_bf16() else "fp32"


def faster_in_bf16() -> bool:
    """Whether the device that an engine uses, the GPU if there is one, has fast hardware for bf16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """The processor's fast instructions for products in bf16, by their usual names."""
    found = torch.cpu.get_capabilities()
    if found.get("architecture") in ("aarch64", "arm64"):
        return ["bf16"] if found.get("bf16") else []
    return [name for name in FAST_BF16 if found.get(name)]
