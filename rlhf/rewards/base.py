"""What a reward is, and the sum of those that the settings name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.common.address import Address
from rlhf.models.roles import Models
from rlhf.registry import REWARDS, find
from rlhf.rollout.records import Rollout
from rlhf.settings import Settings
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class RewardContext:
    """What a reward is made from; one with a model of its own adds it to `models` as a frozen role."""

    settings: Settings
    workspace: Workspace
    models: Models
    tokenizer: PreTrainedTokenizerBase


class Reward(Protocol):
    """Scores responses. Made as `Reward(context, detail)`, detail being what follows the colon.

    score_std: about how far scores of different responses lie apart, the unit of the objective by
        which the best policy is chosen
    """

    score_std: float

    def scores(self, rollout: Rollout) -> Tensor:
        """A score for each response, [B] float32 on the rollout's device, higher is better."""
        ...


class RewardSum:
    """Several rewards as one: their scores are added."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = list(rewards)

    @property
    def score_std(self) -> float:
        """Of a sum of independent scores."""
        if len(self._rewards) == 1:
            return self._rewards[0].score_std
        return math.sqrt(sum(reward.score_std**2 for reward in self._rewards))

    def scores(self, rollout: Rollout) -> Tensor:
        first, *others = (reward.scores(rollout) for reward in self._rewards)
        for scores in others:
            first = first + scores
        return first


def make_rewards(context: RewardContext) -> RewardSum:
    """Make what `ppo.rewards` names."""
    addresses = [Address.parse(text) for text in context.settings.ppo.rewards]
    return RewardSum([find(REWARDS, at.kind)(context, at.detail) for at in addresses])
