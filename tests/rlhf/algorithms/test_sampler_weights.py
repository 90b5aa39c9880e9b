"""The correction for a sampler that is not quite the policy (`ppo.sampling.importance_cap`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from given import step_loss, update_of
from members import CRITIC_FREE, WITH_CRITIC
from slow_ppo import TEMPERATURE, make, roll
from tiny import PAD
from torch import Tensor

from rlhf.algorithms.scored_policy import ScoredPolicy
from rlhf.batches.padding import pad
from rlhf.rollout.records import Rollout
from rlhf.settings.reads import WITHOUT_TOKEN_WEIGHTS
from rlhf.workspace import Workspace

CAP = 2.0
WEIGHED = {"ppo.sampling": {"temperature": TEMPERATURE, "importance_cap": CAP}}
# those with a loss of single sampled tokens
_ALL = {**WITH_CRITIC, **CRITIC_FREE}
MEMBERS = {name: member for name, member in _ALL.items() if name not in WITHOUT_TOKEN_WEIGHTS}
each_weighed = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)


def sampled_by_another(algorithm: ScoredPolicy, gaps: Tensor) -> Rollout:
    """A rollout whose sampler took the tokens' log-probabilities to be lower by `gaps`, [8, 9] at most."""
    rollout = roll(algorithm)
    mask = rollout.response_mask
    logprobs = algorithm.score(rollout).logprobs - gaps[:, : mask.shape[1]]
    return replace(rollout, sampler_logprobs=logprobs * mask)


@each_weighed
def test_a_token_s_loss_is_multiplied_by_its_weight(
    prepared: Workspace, member: Mapping[str, Any]
) -> None:
    """1.5 for every token; and where the policy is three times as sure, the cap of 2."""
    losses = {}
    for gap in (1.0, 1.5, 3.0):
        algorithm = make(prepared, {**member, **WEIGHED})
        gaps = torch.full((8, 9), gap).log()
        update = update_of(algorithm, "policy", sampled_by_another(algorithm, gaps))
        losses[gap] = float(step_loss(update).total.detach())
    unweighed = make(prepared, member)
    plain = float(step_loss(update_of(unweighed, "policy", roll(unweighed))).total.detach())
    expected = {1.0: plain, 1.5: 1.5 * plain, 3.0: 2 * plain}
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_each_token_has_its_own_weight(prepared: Workspace) -> None:
    """Before the policy has moved, the loss is the mean of -w A."""
    algorithm = make(prepared, {**WEIGHED, "ppo.micro_batch": 2, "ppo.entropy": None})
    gaps = torch.randn(8, 9, generator=torch.Generator().manual_seed(2))
    rollout = sampled_by_another(algorithm, gaps)
    update = update_of(algorithm, "policy", rollout)
    (batch,) = update.mini_batches
    mask = rollout.response_mask
    weights = gaps[:, : mask.shape[1]].exp().clamp(max=CAP)[mask]
    expected = -(weights * batch.advantages[mask]).mean()
    assert float(step_loss(update).total.detach()) == pytest.approx(float(expected), abs=1e-5)

    capped = float((weights == CAP).float().mean())
    assert 0 < capped < 1
    assert update.metrics["sampler_weight"] == pytest.approx(float(weights.mean()), abs=1e-5)
    assert update.metrics["sampler_weight_capped"] == pytest.approx(capped)


def test_where_sampler_and_policy_agree_nothing_is_cut_at_a_cap_of_1(prepared: Workspace) -> None:
    """A ratio of 1 is not beyond it."""
    sampling = {"temperature": TEMPERATURE, "importance_cap": 1.0}
    algorithm = make(prepared, {"ppo.sampling": sampling})
    gaps = torch.zeros(8, 9)
    # of one row the policy is more sure, of another less
    gaps[2], gaps[3] = 0.5, -0.5
    rollout = sampled_by_another(algorithm, gaps)
    found = update_of(algorithm, "policy", rollout).metrics["sampler_weight_capped"]
    tokens = rollout.response_mask.sum(dim=1)
    assert found == pytest.approx(float(tokens[2] / tokens.sum()))


def test_without_a_cap_nothing_is_weighed_nor_logged(prepared: Workspace) -> None:
    algorithm = make(prepared)
    update = update_of(algorithm, "policy", sampled_by_another(algorithm, torch.ones(8, 9)))
    assert update.mini_batches[0].sampler_weights is None
    assert not any(key.startswith("sampler_weight") for key in update.metrics)


def test_the_critic_is_not_weighed(prepared: Workspace) -> None:
    """It learns what the returns are of what was said, whoever said it."""
    losses = []
    for changes in ({}, WEIGHED):
        algorithm = make(prepared, changes)
        rollout = sampled_by_another(algorithm, torch.ones(8, 9))
        losses.append(float(step_loss(update_of(algorithm, "critic", rollout)).total.detach()))
    assert losses[0] == losses[1]


def test_plain_text_is_not_weighed(prepared: Workspace) -> None:
    """No sampler drew it."""
    text = pad([[5, 6, 7, 8], [9, 10, 11, 12]], [[True] * 4] * 2, PAD)
    parts = []
    for changes in ({}, WEIGHED):
        ptx = {"ppo.ptx": {"coefficient": 0.1, "windows": 2}}
        algorithm = make(prepared, {**ptx, **changes})
        rollout = sampled_by_another(algorithm, torch.ones(8, 9))
        parts.append(step_loss(update_of(algorithm, "policy", rollout, text=text)).parts)
    (*plain, plain_text), (*weighed, weighed_text) = parts
    assert float(plain_text.detach()) == float(weighed_text.detach()) > 0
    # each token of the rollout has the weight 2
    for one, other in zip(plain, weighed, strict=True):
        assert float(other.detach()) == pytest.approx(2 * float(one.detach()), rel=1e-4)
