"""An iteration of an algorithm without the loop: its rollouts are given, and nothing steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rlhf.algorithms.base import Algorithm, Sources, Step, Update
from rlhf.batches.padding import TokenBatch
from rlhf.core.tally import Tally
from rlhf.rollout.prompts import PromptBatch
from rlhf.rollout.records import Rollout


@dataclass(frozen=True)
class GivenSources:
    """`Sources` of a rollout, a plain text and tables that were made beforehand.

    responses: how prompts are answered that an algorithm gives
    """

    rollout: Rollout
    text: TokenBatch | None = None
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    responses: Callable[[PromptBatch], Rollout] | None = None

    def rollouts(self, role: str = "policy", responses: int = 1) -> Rollout:
        return self.rollout

    def responses_to(self, prompts: PromptBatch, role: str = "policy") -> Rollout:
        assert self.responses is not None
        return self.responses(prompts)

    def plain_text(self, windows: int, step: int) -> TokenBatch:
        assert self.text is not None
        return self.text

    def rows(self, table: str) -> pd.DataFrame:
        return self.tables[table]


def updates_of(
    algorithm: Algorithm,
    rollout: Rollout,
    iteration: int = 0,
    text: TokenBatch | None = None,
    shown: Mapping[str, float] | None = None,
) -> list[Update[Any]]:
    """All updates of an iteration. Nothing is learnt; each is told that it showed `shown`."""
    return updates_from(algorithm, GivenSources(rollout, text), iteration, shown)


def updates_from(
    algorithm: Algorithm,
    sources: Sources,
    iteration: int = 0,
    shown: Mapping[str, float] | None = None,
) -> list[Update[Any]]:
    """All updates of an iteration that draws on `sources`, as `updates_of` gives them."""
    generator = algorithm.updates(sources, iteration)
    updates = []
    try:
        updates.append(next(generator))
        while True:
            updates.append(generator.send(shown or {}))
    except StopIteration:
        return updates


def update_of(
    algorithm: Algorithm,
    role: str,
    rollout: Rollout,
    iteration: int = 0,
    text: TokenBatch | None = None,
) -> Update[Any]:
    """The update of an iteration in which the model in `role` learns, alone or in turn with others."""
    updates = updates_of(algorithm, rollout, iteration, text)
    (update,) = (one for one in updates if role in one.roles)
    return update


@dataclass(frozen=True)
class StepLoss:
    """The loss of one optimiser step: of each micro-batch, and the step's metrics."""

    parts: list[Tensor]
    tally: Tally

    @property
    def total(self) -> Tensor:
        """Their sum, which the engine steps on."""
        return torch.stack(self.parts).sum()

    @property
    def metrics(self) -> dict[str, float]:
        return self.tally.means(alone)


def step_loss(
    update: Update[Any], batch: Any = None, number: int = 0, role: str | None = None
) -> StepLoss:
    """Compute the loss of step `number` of an update, on its first mini-batch or on `batch`.

    role: of an update in which several learn in turn
    """
    if role is None:
        (role,) = update.roles
    step = Step(role, update.mini_batches[0] if batch is None else batch, number)
    parts = [loss() for loss in update.losses(step)]
    return StepLoss(parts, step.tally)


def gradients(
    algorithm: Algorithm, update: Update[Any], role: str | None = None
) -> dict[str, Tensor]:
    """The gradient of an update's first loss on each parameter of its role that it reaches."""
    if role is None:
        (role,) = update.roles
    module = algorithm.models.trainers[role].module
    module.zero_grad()
    step_loss(update, role=role).total.backward()
    named = module.named_parameters()
    return {name: value.grad.clone() for name, value in named if value.grad is not None}


def alone(value: Tensor) -> Tensor:
    """The sum over all processes where there is one."""
    return value
