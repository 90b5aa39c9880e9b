"""`model:reward`: the reward model of the stage before, which scores a response at its last token."""

import torch
from torch import Tensor

from rlhf.engine import in_step
from rlhf.models.heads import load_scalar_model, score_std
from rlhf.rewards.base import RewardContext
from rlhf.rollout.records import Rollout

ROLE = "reward"


class ModelReward:
    """A frozen reward model, in the same micro-batches as all other models of the loop."""

    def __init__(self, context: RewardContext, detail: str) -> None:
        directory = context.workspace.model(detail)
        self.score_std = score_std(directory)
        self._models = context.models
        self._micro_batch = context.settings.ppo.micro_batch
        self._models.freeze(ROLE, load_scalar_model(directory, context.models.engine.dtype))

    @torch.no_grad()
    def scores(self, rollout: Rollout) -> Tensor:
        parts = rollout.batch.micro_batches(self._micro_batch)
        read = [
            (self._models.scores(ROLE, part), counts)
            for part, counts in in_step(self._models.engine, parts)
        ]
        return torch.cat([scores for scores, counts in read if counts])
