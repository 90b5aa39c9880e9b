import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.engine import make_engine, precision
from rlhf.engine.precision import bf16_instructions, precision_of
from rlhf.settings.training import EngineSettings

CPUINFO = Path("/proc/cpuinfo")


def machine(monkeypatch: pytest.MonkeyPatch, maker: str = "", **capabilities: object) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "vendor", lambda: maker)
    reported = {"architecture": "x86_64", **capabilities}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: reported)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, "bf16"),
        # slower in it than in fp32
        ({"maker": "GenuineIntel", "avx512_bf16": True, "amx_bf16": False}, "fp32"),
        ({"maker": "AuthenticAMD", "avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"maker": "AuthenticAMD", "avx512_f": True, "avx512_bf16": False}, "fp32"),
        # where the kernel names no maker
        ({"cpu_name": "AMD EPYC 9004", "avx512_bf16": True}, "bf16"),
        # these have bf16 in software only
        ({"avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({"avx2": True}, "fp32"),
        ({"architecture": "aarch64", "bf16": True}, "bf16"),
        ({"architecture": "aarch64", "avx512_bf16": True}, "fp32"),
    ],
)
def test_auto_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], expected: str
) -> None:
    machine(monkeypatch, **capabilities)
    assert precision_of(EngineSettings(precision="auto")) == expected
    engine = make_engine(EngineSettings(precision="auto", threads=1))
    assert engine.precision == expected
    with engine.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if expected == "bf16" else torch.float32)


def test_what_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, avx2=True)
    assert precision_of(EngineSettings(precision="bf16")) == "bf16"
    machine(monkeypatch, amx_bf16=True)
    assert precision_of(EngineSettings(precision="fp32")) == "fp32"


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.is_file(), reason="reads Linux' flags of x86"
)
def test_torch_and_the_kernel_name_the_same_instructions() -> None:
    text = CPUINFO.read_text()
    flags = next(line for line in text.splitlines() if line.startswith("flags")).split()
    fast = ["amx_bf16", "avx512_bf16"] if "AuthenticAMD" in text else ["amx_bf16"]
    assert bf16_instructions() == [name for name in fast if name in flags]
