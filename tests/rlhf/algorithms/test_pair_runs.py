"""xpo and online-dpo in the loop: what a run logs, nothing to prefer, and the task of counted tokens."""

from collections.abc import Mapping
from typing import Any

import counted_tokens
import pytest
import torch
from members import each_of_pairs
from neighbours import online_dpo, xpo
from tiny import numbers, same_models, tiny_settings
from torch import Tensor

from rlhf.common.files import read_json
from rlhf.registry import REWARDS
from rlhf.rewards.base import RewardContext
from rlhf.rollout.records import Rollout
from rlhf.training import loop
from rlhf.workspace import Workspace


@each_of_pairs
def test_a_whole_run_of_pairs_and_what_it_logs(
    workspace: Workspace, member: dict[str, Any]
) -> None:
    changes = {"ppo.optimizer.learning_rate": 1e-3, "ppo.trainable_layers": 1}
    loop.train(tiny_settings({**member, **changes}), workspace)
    *iterations, final = numbers(workspace.steps("ppo"))
    assert [row["step"] for row in iterations] == [0, 1, 2, 3]
    for row in iterations:
        assert {"policy_loss", "reward", "reward_second", "kl", "perplexity"} <= row.keys()
        assert {"pairs", "ties", "implicit_margin", "policy_gradient_norm"} <= row.keys()
        assert not {"value_loss", "ratio_mean", "advantage_mean"} & row.keys()
    # the policy had not moved yet: it ranks nothing, and yet no draw repeats another
    first, second, *_ = iterations
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["pair_accuracy"] == 0.5 and first["ties"] == 0.0
    assert first["reward_margin"] != 0.0
    assert second["kl"] != 0.0

    accumulates = member["ppo.algorithm"] == "xpo"
    expected = [8, 16, 24, 32] if accumulates else [8] * 4
    assert [row["pairs"] for row in iterations] == expected
    if accumulates:
        assert [row["alpha"] for row in iterations] == [1e-5, 5e-6, 0.0, 0.0]
    assert "validation_objective" in final
    assert not same_models(workspace.model("policy"), workspace.model("sft"))
    # the alarm has its signals
    assert read_json(workspace.metrics("ppo"))["collapsed"] is False


class AllAlike:
    """`alike:`, a `Reward` that finds every response as good as any other."""

    score_std = 1.0

    def __init__(self, context: RewardContext, detail: str) -> None:
        pass

    def scores(self, rollout: Rollout) -> Tensor:
        return torch.zeros(len(rollout), device=rollout.response_mask.device)


def test_a_run_with_nothing_to_prefer_ends_as_it_began(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REWARDS, "alike", f"{__name__}:AllAlike")
    loop.train(tiny_settings({**xpo(), "ppo.rewards": ["alike:"]}), workspace)
    *iterations, _ = numbers(workspace.steps("ppo"))
    for row in iterations:
        assert row["ties"] == 1.0 and "reward" in row
        assert not {"policy_loss", "pair_accuracy", "policy_learning_rate"} & row.keys()
    assert same_models(workspace.model("policy"), workspace.model("sft"))
    assert read_json(workspace.metrics("ppo"))["collapsed"] is False


@pytest.mark.long
@pytest.mark.parametrize(
    "algorithm",
    [online_dpo(), xpo(second="policy", accumulate=False), xpo(accumulate=False)],
    ids=["online-dpo", "xpo-of-policy", "xpo-of-reference"],
)
def test_they_solve_the_bandit_of_counted_tokens(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, algorithm: Mapping[str, Any]
) -> None:
    """From fresh pairs, as TRL has it; a third of the iterations that PPO-max and APA are given."""
    changes = {**algorithm, "ppo.iterations": 14}
    first, last = counted_tokens.solve(workspace, monkeypatch, changes)
    assert first < 1.0
    assert last > 5.4
