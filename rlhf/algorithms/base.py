"""The seam between the policy loop and an algorithm.

An algorithm asks the loop for what it consumes (`Sources`) and hands it what is to be learnt, as
data (`Update`). The loop knows no algorithm, no role and no metric by name.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.batches.padding import TokenBatch
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.engine import Engine, Loss
from rlhf.models.roles import Models
from rlhf.rollout.prompts import PromptBatch
from rlhf.rollout.records import Rollout
from rlhf.settings import Settings
from rlhf.workspace import Workspace

# the role that every algorithm has: it is validated and saved
POLICY = "policy"


# -- what it is made from --------------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """What an algorithm is made from."""

    settings: Settings
    workspace: Workspace
    engine: Engine
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """What the stage reads for an algorithm: tables of data/prepared, and models by name.

    elsewhere: what the settings name by a path of its own, by its address
    """

    tables: tuple[str, ...]
    models: tuple[str, ...]
    elsewhere: Mapping[str, Path] = field(default_factory=dict)

    def paths(self, workspace: Workspace) -> dict[str, Path]:
        """Where they lie."""
        tables = {name: workspace.prepared / f"{name}.parquet" for name in self.tables}
        models = {f"models/{name}": workspace.model(name) for name in self.models}
        # a relative path is from the workspace on
        return tables | models | {name: workspace.root / at for name, at in self.elsewhere.items()}


# -- what an algorithm draws on --------------------------------------------------------------------


class Sources(Protocol):
    """What an iteration may draw on; times and counts of sampling are the loop's business."""

    def rollouts(self, role: str = POLICY, responses: int = 1) -> Rollout:
        """Responses of the model in `role` to this iteration's prompts, `ppo.rollouts` in all.

        Every call names the same prompts: with several `responses` to each, the first of those that
        it names with one. Rows of one prompt lie side by side. A process has the same prompts in
        all calls with as many responses.

        No two responses share a random stream, not those of two calls for the same role either: a
        stream's name holds the role and, from the second call of an iteration on, the call's number.
        """
        ...

    def responses_to(self, prompts: PromptBatch, role: str = POLICY) -> Rollout:
        """One response of the model in `role` to each row of `prompts`, wherever these are from.

        Every process calls it with its own part of the prompts, as many rows as the others. No
        response shares a random stream with one of `rollouts`, nor with one of another call.
        """
        ...

    def plain_text(self, windows: int, step: int) -> TokenBatch:
        """Windows of plain text for optimiser step `step` (from 0) of the run; each process its part.

        With fewer windows than processes some have one without a target: it keeps step with the others.
        """
        ...

    def rows(self, table: str) -> pd.DataFrame:
        """The training rows of a prepared table."""
        ...


# -- what it hands to the loop ---------------------------------------------------------------------


class MiniBatch(Protocol):
    """What one optimiser step learns from; an algorithm has records of its own."""

    def evidence(self) -> dict[str, Any]:
        """What to keep of it when the step is refused; fit for JSON."""
        ...


B = TypeVar("B", bound=MiniBatch)


@dataclass(frozen=True)
class Step(Generic[B]):
    """One optimiser step: of which model, on what, the how-manieth of its update (from 0).

    tally: takes the step's metrics
    """

    role: str
    batch: B
    number: int
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Signals:
    """What tells sound training from a collapse (section 5.2): means over all processes.

    perplexity: of the policy on its own responses
    response_length: in tokens
    finished: the share of responses that ended by themselves
    kl: from the reference, in nats a token
    """

    perplexity: float
    response_length: float
    finished: float
    kl: float


def _evidence_of_batch(step: Step[Any]) -> dict[str, Any]:
    evidence: dict[str, Any] = step.batch.evidence()
    return evidence


@dataclass(frozen=True)
class Update(Generic[B]):
    """What is to be learnt next.

    roles: the models that step, on each mini-batch in this order
    mini_batches: of this process, equally many on every process; each epoch has a new order of them
    losses: of one step, an entry a micro-batch, equally many on every process; rows that must not
        count get weight 0
    metrics: what is known before anything is learnt, to be logged; the same on every process
    signals: by which the alarm judges; of an iteration's updates the first with any counts. Where
        processes differ in them, one would stop and the others wait for it
    after_step: called with the role after each of its steps, for a target network
    evidence: what to keep of a refused step
    name: of a further update of a role in one iteration; it stands before the keys of all that is
        logged of this update, and in the names of its orders
    """

    roles: tuple[str, ...]
    mini_batches: Sequence[B]
    losses: Callable[[Step[B]], list[Loss]]
    epochs: int = 1
    metrics: Mapping[str, Value] = field(default_factory=dict)
    signals: Signals | None = None
    after_step: Callable[[str], None] | None = None
    evidence: Callable[[Step[B]], dict[str, Any]] = _evidence_of_batch
    name: str = ""


@dataclass(frozen=True)
class Validation:
    """What the validation prompts say of a policy, judged by what does not move in the run.

    scores: [B] of each response, as the rewards give them; their mean is `validation_reward`
    objective: [B] what the algorithm maximises; the policy with the highest mean is the best one
    metrics: further tensors of any shape, whose means are logged as `validation_<name>`
    signals: a policy that they show to have collapsed is not the best one
    """

    scores: Tensor
    objective: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    signals: Signals | None = None


# What an update showed, means over all of its steps and processes, without the update's name.
Means = Mapping[str, float]
Updates = Generator[Update[Any], Means, None]


# -- what it is ------------------------------------------------------------------------------------


class Algorithm(Protocol):
    """One way to improve a policy. Made as `Algorithm(context)`.

    models: role -> module, trainable or frozen
    warmup_iterations: iterations (of negative number) before the policy learns
    curves: metrics whose first and last values the stage's summary tells, the main ones first
    peaks: metrics whose largest value it tells
    """

    curves: ClassVar[tuple[str, ...]]
    peaks: ClassVar[tuple[str, ...]]
    models: Models
    warmup_iterations: int

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        """What the stage reads; fingerprints of checkpoints follow from it."""
        ...

    def updates(self, sources: Sources, iteration: int) -> Updates:
        """Draw, score, and yield what is to be learnt, an update at a time.

        The generator goes on once an update was learnt, and is sent what that showed: a later
        update may be scored by models that have just moved.
        """
        ...

    def validate(self, rollout: Rollout) -> Validation:
        """Judge responses to the validation prompts, without learning from them."""
        ...

    def state(self) -> dict[str, Any]:
        """What else must survive an interruption, beside the trained models.

        A tree of mappings and lists with tensors, numbers, text and None at its leaves; the same on
        every process, since that of the first alone is stored and given back to all.
        """
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        ...
