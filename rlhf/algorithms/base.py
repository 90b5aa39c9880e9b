"""The seam between the policy loop and an algorithm: what it consumes, what it trains, how it learns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.padding import TokenBatch
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.engine import Engine, Trainer
from rlhf.rollout.records import Rollout
from rlhf.settings import Settings
from rlhf.workspace import Workspace

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Context:
    """What an algorithm is built from."""

    settings: Settings
    workspace: Workspace
    engine: Engine

    def updates(self, iterations: int, epochs: int) -> int:
        """Optimiser steps in so many iterations, for the learning-rate schedules."""
        return iterations * epochs * (self.settings.ppo.rollouts // self.settings.ppo.mini_batch)


@dataclass(frozen=True)
class Material:
    """What one iteration has to learn from; an algorithm finds here what it said it consumes, None elsewhere."""

    rollout: Rollout | None = None


class Learnable(Protocol):
    """What one iteration learns from, row by row; an algorithm has a record of its own for it."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor) -> Self:
        """Some of the rows, [b] int64: a mini-batch."""
        ...

    def evidence(self) -> dict[str, Any]:
        """What to keep of a mini-batch whose step was refused; fit for JSON."""
        ...


E = TypeVar("E", bound=Learnable)


class Algorithm(Protocol[E]):
    """One way to improve a policy from experience E."""

    consumes: frozenset[str]  # of "rollouts", "pretrain" (later: "pairs", "demonstrations")
    trainers: Mapping[
        str, Trainer
    ]  # every trainable model with its optimiser; "policy" is one of them
    warmup_iterations: int  # iterations before the policy learns, for example critic pre-training

    def policy(self) -> PreTrainedModel:
        """The model that is sampled from and saved."""
        ...

    def active(self, iteration: int) -> Mapping[str, int]:
        """Names of the trainers that learn in this iteration (negative: before the policy learns) and their epochs."""
        ...

    def experience(self, material: Material) -> tuple[E, dict[str, Value]]:
        """Score what was gathered and turn it into targets; gives the experience and its metrics."""
        ...

    def losses(
        self, name: str, iteration: int, batch: E, pretrain: TokenBatch | None, tally: Tally
    ) -> list[Loss]:
        """The losses of one mini-batch for one trainer, one entry per micro-batch, equally many on every process."""
        ...

    def learnt(self, means: Mapping[str, float]) -> dict[str, Value]:
        """Take note of the metrics of an iteration's updates, once it has learnt; gives further metrics."""
        ...

    def look(self, rollout: Rollout) -> tuple[Tensor, Tally]:
        """Reward of each response, [B], and what else there is to watch, without learning from it.

        `objective` in the tally is what the algorithm maximises, of each response: the policy of the look with the highest
        mean is the best one.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What else must survive an interruption, beside the trainers."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        ...
