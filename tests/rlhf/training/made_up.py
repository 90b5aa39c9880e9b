"""An algorithm that uses what PPO-max does not: it makes no sense, and shows what the loop allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import Context, Inputs, Sources, Step, Update, Updates, Validation
from rlhf.batches.padding import TokenBatch
from rlhf.engine import Loss
from rlhf.models.backbone import target_tokens, token_logprobs
from rlhf.models.roles import Models
from rlhf.models.saving import load_causal_lm
from rlhf.registry import ALGORITHMS
from rlhf.rollout.records import Rollout
from rlhf.settings import Settings

CHANGES: Mapping[str, Any] = {
    "ppo.algorithm": "made-up",
    "ppo.iterations": 4,
    "ppo.max_response_tokens": 6,
    "ppo.samples_every": 4,
    "ppo.checkpoint_every": 2,
    "ppo.optimizer.learning_rate": 1e-3,
    "ppo.optimizer.epsilon": 1e-4,
    "ppo.ptx": None,
}
# the iteration in which nothing is drawn and nothing learnt
QUIET = 2
FOLLOW = 0.25


@dataclass(frozen=True)
class Weighted:
    """A mini-batch whose rows count with weight 1 or 0."""

    batch: TokenBatch
    weights: Tensor

    def evidence(self) -> dict[str, Any]:
        return {"weights": self.weights.tolist()}

    @property
    def token_weights(self) -> Tensor:
        """The weight of each target token, [N]."""
        return self.weights[:, None].expand_as(self.batch.target_mask)[self.batch.target_mask]


class MadeUp:
    """Policy and partner step in turn on each mini-batch; a target network follows the partner.

    Of the two responses to a prompt only the first counts: the second has weight 0, or is taken out
    where `removes` says so. events: what happened, in order; shown: what each update was sent
    """

    curves: ClassVar[tuple[str, ...]] = ("loss", "again_loss")
    peaks: ClassVar[tuple[str, ...]] = ("largest",)
    events: ClassVar[list[tuple[Any, ...]]] = []
    shown: ClassVar[list[Mapping[str, float]]] = []
    removes: ClassVar[bool] = False
    warmup_iterations = 0

    def __init__(self, context: Context) -> None:
        workspace, optimizer = context.workspace, context.settings.ppo.optimizer
        self.engine = context.engine
        self.settings = context.settings.ppo
        self.models = Models(context.engine, None)
        self.models.train("policy", load_causal_lm(workspace.model("sft")), optimizer, 100)
        self.models.train("partner", load_causal_lm(workspace.model("base")), optimizer, 100)
        self.models.freeze("target", load_causal_lm(workspace.model("base")))
        self.past: list[float] = []

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        return Inputs(tables=("prompts",), models=("sft", "base"))

    def updates(self, sources: Sources, iteration: int) -> Updates:
        if iteration == QUIET:
            return
        # 1. both learn in turn
        rollout = sources.rollouts("policy", responses=2)
        mini_batches = self.mini_batches(rollout)
        shown = yield Update(
            roles=("policy", "partner"),
            mini_batches=mini_batches,
            losses=partial(self.losses, "together"),
            epochs=2,
            metrics={"nll": self.nll(mini_batches)},
            after_step=self.after_step,
        )
        self.shown.append(shown)
        self.past.append(shown["loss"])

        # 2. the policy again, once the models have moved; from what the target says now
        answers = self.mini_batches(sources.rollouts("target"))
        shown = yield Update(
            name="again",
            roles=("policy",),
            mini_batches=mini_batches,
            losses=partial(self.losses, "again"),
            metrics={
                "nll": self.nll(mini_batches),
                "nll_of_target": self.nll(answers),
                "past": sum(self.past),
            },
        )
        self.shown.append(shown)

    def mini_batches(self, rollout: Rollout) -> list[Weighted]:
        parts = []
        numbers = torch.tensor(rollout.prompts.response_numbers)
        size = self.settings.mini_batch // self.engine.world_size
        for start in range(0, len(rollout), size):
            rows = torch.arange(start, start + size)
            if self.removes:
                rows = rows[numbers[rows] == 0]
            weights = (numbers[rows] == 0).float()
            parts.append(Weighted(rollout.batch.select(rows), weights))
        return parts

    # -- losses -----------------------------------------------------------------------------------

    def losses(self, name: str, step: Step[Weighted]) -> list[Loss]:
        self.events.append(("step", name, step.role, step.number))
        return [partial(self.loss, step)]

    def loss(self, step: Step[Weighted]) -> Tensor:
        """-log p, and the distance from the target network, a mean over the tokens that count."""
        weights = step.batch.token_weights
        logprobs = self.logprobs(step.role, step.batch.batch)
        with torch.no_grad():
            target = self.logprobs("target", step.batch.batch)
        losses = weights * (-logprobs + 0.1 * (logprobs - target).square())
        step.tally.add(loss=losses[weights > 0])
        step.tally.peak(largest=float(losses.detach().max()))
        return losses.sum() / self.engine.all_sum(weights.sum())

    def logprobs(self, role: str, batch: TokenBatch) -> Tensor:
        return token_logprobs(self.models.target_logits(role, batch), target_tokens(batch))

    @torch.no_grad()
    def nll(self, mini_batches: list[Weighted]) -> float:
        """-log p of the policy, a mean over the tokens that count."""
        total, count = torch.zeros(()), torch.zeros(())
        for part in mini_batches:
            weights = part.token_weights
            total -= (weights * self.logprobs("policy", part.batch)).sum()
            count += weights.sum()
        # the same on every process
        return float(self.engine.all_sum(total) / self.engine.all_sum(count))

    @torch.no_grad()
    def after_step(self, role: str) -> None:
        self.events.append(("after", role))
        if role != "partner":
            return
        target, partner = self.models["target"], self.models["partner"]
        for value, current in zip(target.parameters(), partner.parameters(), strict=True):
            value.lerp_(current, FOLLOW)

    # -- validation and state ---------------------------------------------------------------------

    def validate(self, rollout: Rollout) -> Validation:
        scores = rollout.sampler_logprobs.sum(dim=1)
        return Validation(scores, objective=scores, metrics={"length": rollout.lengths.float()})

    def state(self) -> dict[str, Any]:
        return {"target": self.models["target"].state_dict(), "past": self.past}

    def load_state(self, state: dict[str, Any]) -> None:
        self.models["target"].load_state_dict(state["target"])
        self.past = list(state["past"])


class Twice(MadeUp):
    """The policy learns twice from the same mini-batches; orders: of each update, by their tokens."""

    names: ClassVar[tuple[str, str]] = ("", "again")
    orders: ClassVar[list[list[int]]] = []

    def updates(self, sources: Sources, iteration: int) -> Updates:
        mini_batches = self.mini_batches(sources.rollouts())
        for name in self.names:
            self.orders.append([])
            yield Update(("policy",), mini_batches, partial(self.losses, name), name=name)

    def losses(self, name: str, step: Step[Weighted]) -> list[Loss]:
        self.orders[-1].append(int(step.batch.batch.input_ids.sum()))
        return super().losses(name, step)


class Idle(MadeUp):
    """An algorithm that never has anything to learn."""

    def updates(self, sources: Sources, iteration: int) -> Updates:
        yield from ()


PLACES = {"made-up": f"{__name__}:MadeUp", "twice": f"{__name__}:Twice", "idle": f"{__name__}:Idle"}


def register() -> None:
    """Make them known to this process."""
    ALGORITHMS.update(PLACES)
