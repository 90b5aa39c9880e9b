"""Steps of the tiny model, dealt out to the processes of an engine."""

from functools import partial
from typing import Any

from torch import Tensor
from toy import copies, toy_batches, toy_loss

from rlhf.batches.padding import TokenBatch
from rlhf.engine.base import Trainer
from rlhf.engine.zero import ZeroEngine
from rlhf.settings.training import EngineSettings, Lora, Optimizer

STEPS, MICRO, COUNT = 5, 4, 4 * 2 * 8
OPTIMIZER = Optimizer(learning_rate=1e-3, epsilon=1e-4, max_gradient_norm=0.5, weight_decay=0.01)
LORA = Lora(rank=4, alpha=8.0)
DROPPING = Lora(rank=4, alpha=8.0, dropout=0.2)
STEP_BATCHES = [toy_batches(MICRO, rows=2, seed=seed) for seed in range(STEPS)]


def zero_engine(stage: int, **settings: Any) -> ZeroEngine:
    """ZeRO on the processes that there are."""
    common = {"kind": "deepspeed", "zero_stage": stage}
    return ZeroEngine(EngineSettings.model_validate({**common, **settings}))


def share_of(engine: ZeroEngine, step: int) -> list[TokenBatch]:
    """This process's micro-batches of a step."""
    return STEP_BATCHES[step][engine.rank :: engine.world_size]


def take_step(trainer: Trainer, batches: list[TokenBatch]) -> tuple[float, float]:
    """One step; gives this process's summed loss and the gradient norm."""
    seen: list[float] = []

    def compute(batch: TokenBatch) -> Tensor:
        loss = toy_loss(trainer.module, batch, COUNT)
        seen.append(float(loss.detach()))
        return loss

    norm = trainer.step([partial(compute, batch) for batch in batches])
    return sum(seen), norm


def gathered_weights(trainer: Trainer) -> dict[str, Tensor]:
    """The model's own weights, whole."""
    with trainer.gathered() as module:
        return copies(module)
