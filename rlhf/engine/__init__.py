"""How training runs: one process with plain torch, or many with DeepSpeed ZeRO. The formulas above know neither."""

from collections.abc import Callable

from rlhf.engine.base import Engine, NonFiniteError, Trainer, share
from rlhf.engine.single import TorchEngine
from rlhf.settings.training import EngineSettings


def _deepspeed(settings: EngineSettings) -> Engine:
    from rlhf.engine.zero import (
        ZeroEngine,
    )  # imported here: the sole importer of deepspeed, and only when asked for

    return ZeroEngine(settings)


ENGINES: dict[str, Callable[[EngineSettings], Engine]] = {
    "torch": TorchEngine,
    "deepspeed": _deepspeed,
}


def make_engine(settings: EngineSettings) -> Engine:
    """Start the engine that the settings name."""
    return ENGINES[settings.kind](settings)


__all__ = ["ENGINES", "Engine", "NonFiniteError", "Trainer", "make_engine", "share"]
