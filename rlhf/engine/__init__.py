"""How training runs: one process with plain torch, or many with DeepSpeed ZeRO.

The formulas above know neither.
"""

from rlhf.engine.base import Engine, Loss, NonFiniteError, Trainer, in_step, share
from rlhf.registry import ENGINES, find
from rlhf.settings.training import EngineSettings


def make_engine(settings: EngineSettings) -> Engine:
    """Start the engine that the settings name."""
    engine: Engine = find(ENGINES, settings.kind)(settings)
    return engine


__all__ = ["Engine", "Loss", "NonFiniteError", "Trainer", "in_step", "make_engine", "share"]
