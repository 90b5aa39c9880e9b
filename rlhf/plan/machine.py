"""The cards that a plan is for: how many, how large, how fast."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlhf.common.errors import SettingsError

GB = 1e9
# the share of a card that stays free: fragmentation, and what is not counted
MARGIN = 0.10
# CUDA's own, its kernels and NCCL's buffers, a process: assumed
_CUDA = 1.5 * GB
# Python with torch and transformers, a process: 483 MiB by tests.benchmarks.plan_memory
_INTERPRETER = 0.5 * GB


@dataclass(frozen=True)
class Rates:
    """What a card does a second.

    flops: of dense bf16 products; bandwidth: bytes of its memory
    measured: in long runs; else at best, of which a plan takes a part
    """

    flops: float
    bandwidth: float
    source: str
    measured: bool = False


@dataclass(frozen=True)
class Card:
    """A kind of card: memory in bytes, and what its maker says of its speed."""

    name: str
    memory: float
    rates: Rates


_NVIDIA = "NVIDIA's data sheet, dense bf16"
CARDS: Mapping[str, Card] = {
    "a100": Card("A100 80 GB", 80 * GB, Rates(312e12, 2.039e12, _NVIDIA)),
    "h100": Card("H100 80 GB", 80 * GB, Rates(989e12, 3.35e12, _NVIDIA)),
    "h200": Card("H200 141 GB", 141 * GB, Rates(989e12, 4.8e12, _NVIDIA)),
    "l40s": Card("L40S 48 GB", 48 * GB, Rates(362e12, 0.864e12, _NVIDIA)),
    "4090": Card("RTX 4090 24 GB", 24 * GB, Rates(165e12, 1.008e12, _NVIDIA)),
}
# the card that a bare size is taken for
_BY_SIZE = {80: "a100", 141: "h200", 48: "l40s", 24: "4090"}
# of steps of SFT (tests/benchmarks/README.md), and taken for the memory's; fp32
_CPU = Rates(0.1e12, 10e9, "about what two cores of an AMD EPYC with AVX2 reach", measured=True)
# the part of the best that long runs reach
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.4, 0.6


@dataclass(frozen=True)
class Hardware:
    """Cards of one host.

    memory: bytes of each; on a CPU all processes share the host's
    host: bytes of host memory, None: not known
    rates: of each card; None: not known
    reserved: bytes that a process takes before any model
    """

    name: str
    cards: int
    memory: float
    rates: Rates | None
    host: float | None = None
    is_cpu: bool = False

    @property
    def reserved(self) -> float:
        """Bytes that each process takes before any model."""
        return _INTERPRETER if self.is_cpu else _CUDA

    @property
    def usable(self) -> float:
        """Bytes that a plan may fill, the margin left."""
        return (1 - MARGIN) * self.memory

    def with_host(self, host: float) -> "Hardware":
        """The same cards with so many bytes of host memory, which is what a CPU has."""
        return replace(self, host=host, memory=host if self.is_cpu else self.memory)


def parse_machine(text: str, host: float | None = None) -> Hardware:
    """`8x80`: eight cards of 80 GB; `8xh100`: by name; `cpu`; raises SettingsError that shows the forms.

    host: bytes of host memory; it is what a CPU has
    """
    if text == "cpu":
        if host is None:
            raise SettingsError("--gpus cpu: --host-memory says how much memory there is")
        return Hardware("cpu", 1, host, _CPU, host, is_cpu=True)
    match = re.fullmatch(r"([1-9]\d*)x(\w+(?:\.\d+)?)", text.lower())
    size = match[2] if match else ""
    if match and size in CARDS:
        card = CARDS[size]
        return Hardware(f"{match[1]} x {card.name}", int(match[1]), card.memory, card.rates, host)
    if match is None or not re.fullmatch(r"\d+(\.\d+)?", size) or float(size) <= 0:
        raise SettingsError(
            f"--gpus {text}: expected CARDSxGIGABYTES as 8x80, CARDSxNAME with one of "
            f"{', '.join(CARDS)}, or cpu"
        )
    known = _BY_SIZE.get(int(float(size))) if float(size).is_integer() else None
    rates = CARDS[known].rates if known else None
    taken = f" (speed: {CARDS[known].name})" if known else ""
    return Hardware(f"{match[1]} x {size} GB{taken}", int(match[1]), float(size) * GB, rates, host)
