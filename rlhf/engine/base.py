"""What a training loop may ask of an engine, and the learning-rate schedules of all engines."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from rlhf.engine.precision import Precision
from rlhf.settings.training import Optimizer

Model = TypeVar("Model", bound=nn.Module)
Item = TypeVar("Item")


# computes the loss of one micro-batch, already divided by the global count
Loss = Callable[[], Tensor]


class Trainer(Protocol):
    """One trainable model with its optimiser."""

    module: nn.Module

    def step(self, losses: Sequence[Loss]) -> float:
        """Run one optimiser step on the sum of the losses of all processes.

        Gives the gradient norm before clipping.

        Each entry computes the loss of one micro-batch of this process (already divided by the
        global count) and is called, and its graph freed, one after the other. Every process must
        pass equally many. A loss or gradient that is not finite raises NonFiniteError before the
        weights change.
        """
        ...

    def learning_rate(self) -> float:
        """The rate that the next step will use."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights and optimiser state for resuming; every process calls it."""
        ...

    def load(self, directory: Path) -> None:
        """Take up what `save` wrote."""
        ...

    def gathered(self) -> AbstractContextManager[nn.Module]:
        """The module with whole weights inside the block, for saving and sampling.

        Outside of it ZeRO-3 keeps them in parts.
        """
        ...


class Engine(Protocol):
    """The machine as a training loop sees it."""

    device: torch.device
    rank: int
    world_size: int
    # of forward passes; never `auto`
    precision: Precision
    # of whole weights as models are to be loaded; the optimiser's own copy is float32
    dtype: torch.dtype
    # whether models hold their whole weights at all times; ZeRO-3 keeps them in parts
    whole_weights: bool

    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> Trainer:
        """Take a model over for training."""
        ...

    def frozen(
        self, model: Model, trunk: nn.Module | None = None, blocks: Sequence[nn.Module] = ()
    ) -> Model:
        """Move a model that is only read to the device.

        trunk, blocks: the part of it whose blocks may be spread over the processes, or kept on the
            host, as the settings say. Every process must then read it equally often (`in_step`).
        """
        ...

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision as the settings say; log-probabilities and losses leave it in float32."""
        ...

    def all_sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes; the same result on each."""
        ...

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes in the order of ranks, on each process."""
        ...


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the step was not taken."""


def learning_rate(settings: Optimizer, step: int, total_steps: int) -> float:
    """Rate of step `step`, from 0: linear warm-up, then constant, cosine or inverse square root.

    The cosine ends at `final_fraction` of the rate.
    """
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.decay == "constant":
        return settings.learning_rate
    if settings.decay == "inverse_sqrt":
        return settings.learning_rate * math.sqrt(max(warmup, 1) / max(step + 1, warmup, 1))
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate * (
        settings.final_fraction + (1 - settings.final_fraction) * cosine
    )


def in_step(engine: Engine, parts: Sequence[Item]) -> list[tuple[Item, bool]]:
    """Parts and whether they count: the first stands in until every process has as many.

    Each reading of a model whose weights are spread over the processes is a meeting of all, and the
    shares of validation prompts may differ by one.
    """
    most = max(engine.all_gather([len(parts)]))
    missing = most - len(parts)
    return [(part, True) for part in parts] + [(parts[0], False)] * missing


def share(
    micro_batches: Sequence[list[int]], rank: int, world_size: int
) -> list[tuple[list[int], float]]:
    """This process's part of a batch: (items, weight) pairs, equally many on every process.

    Where the micro-batches do not divide, the first one stands in with weight 0, so that all
    processes meet in every reduction and the sum of the losses is still that of the batch.
    """
    padding = -len(micro_batches) % world_size
    weighted = [(items, 1.0) for items in micro_batches] + [(micro_batches[0], 0.0)] * padding
    return weighted[rank::world_size]
