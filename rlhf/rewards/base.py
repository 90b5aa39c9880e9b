"""What a reward is, and the weighted sum of those that the settings name."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.common.address import Address
from rlhf.models.roles import Models
from rlhf.ppo.moments import AllSum, Moments, merge
from rlhf.ppo.rewards import normalise
from rlhf.registry import REWARDS, find
from rlhf.rewards.records import ResponseRecord, response_records
from rlhf.rollout.records import Rollout, SourceScores
from rlhf.settings import Settings
from rlhf.settings.rewards import RewardSource
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class RewardContext:
    """What a reward is made from; one with a model of its own adds it to `models` as a frozen role."""

    settings: Settings
    workspace: Workspace
    models: Models
    tokenizer: PreTrainedTokenizerBase


# -- what a reward is ------------------------------------------------------------------------------
# Either is made as `Reward(context, detail)`, detail being what follows the colon. `score_std` is
# about how far scores of different responses lie apart, the unit of the objective by which the best
# policy is chosen.


class Reward(Protocol):
    """Scores responses by their tokens."""

    score_std: float

    def scores(self, rollout: Rollout) -> Tensor:
        """A score for each response, [B] float32 on the rollout's device, higher is better."""
        ...


@runtime_checkable
class TextReward(Protocol):
    """Scores responses by their text."""

    score_std: float

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        """A finite score for each record, in their order, higher is better.

        None where it cannot tell, as for a prompt without a reference answer: such a response is
        paid nothing, and counted as a failure.
        """
        ...


# -- several as one --------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedReward:
    """A reward under the name that its metrics have, with what the settings make of its scores."""

    name: str
    reward: Reward | TextReward
    settings: RewardSource

    @property
    def score_std(self) -> float:
        """How far its scores lie apart, as they come."""
        return self.settings.score_std or self.reward.score_std

    @property
    def unit(self) -> float:
        """How far they lie apart in the sum."""
        std = 1.0 if self.settings.normalise else self.score_std
        return abs(self.settings.weight) * std

    def share(self, scores: Tensor) -> Tensor:
        """What it adds to the sum, [B]; scores that a history will normalise are in their unit here."""
        if self.settings.normalise:
            scores = scores / self.score_std
        return self.settings.weight * scores


class RewardSum:
    """The rewards of a policy as one: their scores, each times its weight, are added."""

    def __init__(self, sources: Sequence[NamedReward], tokenizer: PreTrainedTokenizerBase) -> None:
        self.sources = list(sources)
        self._tokenizer = tokenizer

    @property
    def score_std(self) -> float:
        """Of a sum of independent scores."""
        if len(self.sources) == 1:
            return self.sources[0].unit
        return math.sqrt(sum(source.unit**2 for source in self.sources))

    def read(self, rollout: Rollout) -> dict[str, SourceScores]:
        """What each source says of the responses, as it is, by name."""
        reads_text = any(isinstance(source.reward, TextReward) for source in self.sources)
        # decoded once for all
        records = response_records(rollout, self._tokenizer) if reads_text else ()
        device = rollout.finished.device
        return {
            source.name: (
                _of_text(source.reward, records, device)
                if isinstance(source.reward, TextReward)
                else SourceScores(source.reward.scores(rollout))
            )
            for source in self.sources
        }

    def total(self, read: Mapping[str, SourceScores]) -> Tensor:
        """The weighted sum, [B], by what does not move in a run."""
        return _added([source.share(read[source.name].scores) for source in self.sources])

    def total_by_history(
        self, read: Mapping[str, SourceScores], histories: Mapping[str, Moments], all_sum: AllSum
    ) -> tuple[Tensor, dict[str, Moments]]:
        """The weighted sum, [B], and the histories with these scores in them.

        Of sources with `normalise`, what is added is (r - mean) / std of their own history.
        """
        histories, shares = dict(histories), []
        for source in self.sources:
            scores = read[source.name]
            if source.settings.normalise is None:
                shares.append(source.share(scores.scores))
                continue
            history = _with(histories.get(source.name, Moments()), scores, all_sum)
            paid = source.settings.weight * normalise(scores.scores, history)
            # what it cannot tell is paid nothing, which is the mean
            shares.append(paid if scores.failed is None else paid.masked_fill(scores.failed, 0.0))
            histories[source.name] = history
        return _added(shares), histories


def make_rewards(context: RewardContext) -> RewardSum:
    """Make what `ppo.rewards` names."""
    settings = context.settings.ppo.rewards
    names = source_names([source.address for source in settings])
    sources = [
        NamedReward(
            name, find(REWARDS, source.address.kind)(context, source.address.detail), source
        )
        for name, source in zip(names, settings, strict=True)
    ]
    return RewardSum(sources, context.tokenizer)


def source_names(addresses: Sequence[Address]) -> list[str]:
    """Names for metrics: the kind, and of what lies in files or is a service its last part; all differ."""
    names: list[str] = []
    for address in addresses:
        named = address.kind in ("hf", "python", "http")
        last = re.split("[:/]", address.detail.rstrip("/"))[-1] if named else ""
        name = re.sub(r"\W+", "_", f"{address.kind}_{last}" if last else address.kind)
        names.append(_free(name, names))
    return names


# -- helpers ---------------------------------------------------------------------------------------


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, or with the first number that none has: a service may be called `a_2` itself."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _of_text(
    reward: TextReward, records: Sequence[ResponseRecord], device: torch.device
) -> SourceScores:
    found = reward.scores_of(records)
    scores = [0.0 if score is None else score for score in found]
    return SourceScores(
        torch.tensor(scores, dtype=torch.float32, device=device),
        torch.tensor([score is None for score in found], device=device),
    )


def _added(shares: Sequence[Tensor]) -> Tensor:
    first, *others = shares
    for share in others:
        first = first + share
    return first


def _with(history: Moments, scores: SourceScores, all_sum: AllSum) -> Moments:
    """The history with those scores in it that the source could give."""
    values = scores.scores if scores.failed is None else scores.scores[~scores.failed]
    count = torch.tensor(float(len(values)), dtype=torch.float64, device=values.device)
    return merge(history, values, all_sum) if float(all_sum(count)) else history
