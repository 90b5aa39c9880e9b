"""Algorithms that learn from pairs on the tiny model, and their loss one pair at a time, in plain Python."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from slow_ppo import PROMPTS, TEMPERATURE, SlowRow, move, roll
from tiny import tiny_settings, tiny_tokenizer

from rlhf.algorithms.base import Context, Update
from rlhf.algorithms.online_preference import OnlinePreference
from rlhf.batches.padding import TokenBatch
from rlhf.engine import Engine, make_engine
from rlhf.registry import ALGORITHMS, find
from rlhf.rollout.records import Rollout
from rlhf.rollout.sampled_pairs import PairExperience, SampledPair, pairs_from_state
from rlhf.workspace import Workspace


def make_of_pairs(
    workspace: Workspace, changes: Mapping[str, Any], engine: Engine | None = None
) -> OnlinePreference:
    """The algorithm that the settings name; one mini-batch holds a pair of each prompt.

    The policy has moved away from the reference, as after some updates.
    """
    defaults = {
        "ppo.sampling.temperature": TEMPERATURE,
        "ppo.rollouts": len(PROMPTS),
        "ppo.mini_batch": len(PROMPTS),
    }
    settings = tiny_settings({**defaults, **changes})
    context = Context(
        settings=settings,
        workspace=workspace,
        engine=engine or make_engine(settings.engine),
        tokenizer=tiny_tokenizer(),
    )
    algorithm = find(ALGORITHMS, settings.ppo.algorithm)(context)
    assert isinstance(algorithm, OnlinePreference)
    move(algorithm.models.language_model("policy"), seed=4)
    return algorithm


@dataclass
class GivenDraws:
    """`Sources` of two draws that were made beforehand; roles: whose were asked for."""

    draws: Sequence[Rollout]
    roles: list[str] = field(default_factory=list)

    def rollouts(self, role: str = "policy", responses: int = 1) -> Rollout:
        assert responses == 1
        self.roles.append(role)
        return self.draws[len(self.roles) - 1]

    def plain_text(self, windows: int, step: int) -> TokenBatch:
        raise LookupError

    def rows(self, table: str) -> pd.DataFrame:
        raise LookupError(table)


def two_draws(algorithm: OnlinePreference, seed: int = 1) -> tuple[Rollout, Rollout]:
    """The policy's responses, and those of whoever gives the second."""
    second = roll(algorithm, seed=seed + 100, role=algorithm.second_role)
    return roll(algorithm, seed=seed), second


def pair_update(
    algorithm: OnlinePreference, draws: Sequence[Rollout], iteration: int = 0
) -> Update[Any]:
    """The one update of an iteration; nothing is learnt."""
    generator = algorithm.updates(GivenDraws(draws), iteration)
    update = next(generator)
    with suppress(StopIteration):
        generator.send({})
        raise AssertionError("a second update")
    return update


# -- what is learnt from ------------------------------------------------------------------------


def pairs_of(algorithm: OnlinePreference) -> list[SampledPair]:
    """All pairs that a checkpoint would hold."""
    return pairs_from_state(algorithm.state()["pairs"])


def tokens_of(batches: list[PairExperience]) -> list[tuple[Any, ...]]:
    """What is in some mini-batches, a pair a row, whatever its place and padding."""
    pairs = []
    for batch in batches:
        for one in batch.split(1):
            masks = (one.batch.attention_mask, one.batch.target_mask)
            rows = [
                tuple(tuple(row[keep].tolist()) for keep in both)
                for row, *both in zip(one.batch.input_ids, *masks, strict=True)
            ]
            reference = tuple(one.reference_logprobs[0].tolist())
            pairs.append((*rows, reference, bool(one.second_is_chosen[0]), float(one.weights[0])))
    return sorted(pairs)


# -- one pair at a time -------------------------------------------------------------------------


def log_ratio(row: SlowRow) -> float:
    """log pi - log pi_ref of a response."""
    return sum(row.log_ratios)


@dataclass(frozen=True)
class SlowPairLoss:
    """The loss of a pair as the paper has it; ipo in place of -log sigma where asked for."""

    beta: float
    alpha: float = 0.0
    loss: str = "sigmoid"
    second: str = "reference"

    def __call__(self, first: SlowRow, second: SlowRow) -> float:
        """The first response is the policy's; the better one of the two is that of the higher score."""
        lead = log_ratio(first) - log_ratio(second)
        margin = lead if first.score > second.score else -lead
        loss = math.log(1 + math.exp(-self.beta * margin))
        if self.loss == "ipo":
            loss = (margin - 1 / (2 * self.beta)) ** 2
        # of the second response, however it was ranked
        explored = log_ratio(second) if self.second == "policy" else sum(second.logprobs)
        return loss + self.alpha * explored
