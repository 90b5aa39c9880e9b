"""Which number format `engine.precision: auto` means on this machine."""

from typing import Literal

import torch

from rlhf.settings.schema import Engine as EngineSettings

Precision = Literal["fp32", "bf16"]
FAST_BF16 = (
    "amx_bf16",
    "avx512_bf16",
)  # x86 instructions; without them a CPU emulates bf16, several times slower than fp32


def precision_of(settings: EngineSettings) -> Precision:
    """The precision that the settings ask for; `auto` is bf16 where the device multiplies it in hardware, else fp32."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if multiplies_bf16() else "fp32"


def multiplies_bf16() -> bool:
    """Whether the device that an engine uses, the GPU if there is one, multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """The processor's instructions for products in bf16, by their usual names."""
    found = torch.cpu.get_capabilities()
    if found.get("architecture") in ("aarch64", "arm64"):
        return ["bf16"] if found.get("bf16") else []
    return [name for name in FAST_BF16 if found.get(name)]
