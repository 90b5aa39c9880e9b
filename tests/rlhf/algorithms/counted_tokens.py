"""A task with a known optimum: the reward is the number of tokens GOOD, six at most."""

from collections.abc import Mapping
from typing import Any

import pytest
from tiny import GOOD, numbers, tiny_settings
from torch import Tensor

from rlhf.registry import REWARDS
from rlhf.rewards.base import RewardContext
from rlhf.rollout.records import Rollout
from rlhf.training import loop
from rlhf.workspace import Workspace

BEST = 6
TASK: Mapping[str, Any] = {
    "ppo.rewards": ["count:good"],
    "ppo.max_response_tokens": BEST,
    "ppo.iterations": 40,
    "ppo.rollouts": 32,
    "ppo.mini_batch": 16,
    "ppo.micro_batch": 16,
    "ppo.epochs": 2,
    "ppo.ptx": None,
    "ppo.optimizer.learning_rate": 3.0e-3,
    "ppo.samples_every": 20,
    "ppo.checkpoint_every": 100,
    "ppo.keep": "last",
}


class CountGood:
    """`count:good`, a `Reward`."""

    score_std = 1.0

    def __init__(self, context: RewardContext, detail: str) -> None:
        assert detail == "good"

    def scores(self, rollout: Rollout) -> Tensor:
        is_good = rollout.batch.input_ids == GOOD
        return (is_good & rollout.batch.target_mask).sum(dim=1).float()


def solve(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any]
) -> tuple[float, float]:
    """Train on the task; the mean reward over the first iterations, and over the last."""
    monkeypatch.setitem(REWARDS, "count", f"{__name__}:CountGood")
    loop.train(tiny_settings({**TASK, **changes}), workspace)
    (summary,) = numbers(workspace.metrics("ppo"))
    return summary["reward_first"], summary["reward_last"]
