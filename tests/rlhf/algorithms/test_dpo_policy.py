"""The model of stage dpo as the policy: validated and saved, nothing learnt."""

import json

import pytest
import torch
from neighbours import DPO_POLICY
from slow_ppo import make, roll
from tiny import numbers, same_models, tiny_settings, tiny_tokenizer

from rlhf.algorithms.base import Context
from rlhf.algorithms.dpo import DpoPolicy
from rlhf.common.errors import ModelError
from rlhf.engine import make_engine
from rlhf.models.dpo import NOTE_FILE
from rlhf.training import loop
from rlhf.workspace import Workspace


def dpo_policy(workspace: Workspace) -> DpoPolicy:
    settings = tiny_settings({**DPO_POLICY, "ppo.sampling.temperature": 0.8})
    context = Context(settings, workspace, make_engine(settings.engine), tiny_tokenizer())
    return DpoPolicy(context)


def test_it_is_judged_as_any_policy_with_its_weights(workspace: Workspace) -> None:
    """PPO-max whose policy has the same weights says the same of the same responses."""
    ours, other = dpo_policy(workspace), make(workspace)
    weights = ours.models.language_model("policy").state_dict()
    other.models.language_model("policy").load_state_dict(weights)
    rollout = roll(other)
    left, right = ours.validate(rollout), other.validate(rollout)
    torch.testing.assert_close(left.scores, right.scores)
    torch.testing.assert_close(left.objective, right.objective)
    assert left.metrics.keys() == right.metrics.keys()
    for name, value in left.metrics.items():
        torch.testing.assert_close(value, right.metrics[name])
    assert left.signals == right.signals


def test_a_whole_run_draws_nothing_and_saves_the_model(workspace: Workspace) -> None:
    loop.train(tiny_settings({**DPO_POLICY, "ppo.iterations": 2}), workspace)
    assert same_models(workspace.model("policy"), workspace.model("dpo"))
    rows = numbers(workspace.steps("ppo"))
    assert all("reward" not in row and "tokens" not in row for row in rows)
    # the fixed prompts are asked with fixed random numbers: all validations are the same
    objectives = {row["validation_objective"] for row in rows if "validation_objective" in row}
    assert len(objectives) == 1
    summary = json.loads(workspace.metrics("ppo").read_text())
    assert summary["validation_reward_first"] == summary["validation_reward_last"]
    assert summary["collapsed"] is None
    assert numbers(workspace.samples("ppo"))


def test_a_model_of_another_stage_is_refused(workspace: Workspace) -> None:
    (workspace.model("dpo") / NOTE_FILE).unlink()
    with pytest.raises(ModelError, match="this is not a model of stage dpo"):
        dpo_policy(workspace)
