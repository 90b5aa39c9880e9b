"""ETPO on tables: responses of two tokens out of {a, b}, of which only aa is paid.

pi_ref is uniform and beta 0.5, so that V, Q and the best policy are known:
V(s) = beta log E_{w ~ pi_ref}[exp(Q(s, w) / beta)], pi* = pi_ref exp(Q / beta) / Z.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlhf.ppo.etpo import (
    etpo_critic_loss,
    etpo_policy_loss,
    etpo_published_loss,
    soft_targets,
    soft_values,
)

BETA = 0.5
# aa, ab, ba, bb
RESPONSES = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
# the state before each token: at the start, after a, after b
STATES = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 2]])
REFERENCE = torch.zeros(3, 2, dtype=torch.float64)


@dataclass
class Tables:
    """Logits, Q and the target network's Q, [3, 2] each."""

    logits: Tensor
    q: Tensor
    target: Tensor

    @property
    def policy(self) -> Tensor:
        return self.logits.detach().softmax(1)

    @property
    def of_responses(self) -> Tensor:
        """How likely each of the four responses is, [4]."""
        return self.policy[STATES, RESPONSES].prod(dim=1)


def trained(
    start: Tensor, form: str = "exact", rewards: Tensor = REWARDS, steps: int = 500
) -> Tables:
    """Steps of policy, critic and target network; each response counts by its probability."""
    tables = Tables(start.clone().requires_grad_(), REFERENCE.clone(), REFERENCE.clone())
    tables.q.requires_grad_()
    mask = torch.ones(4, 2, dtype=torch.bool)
    for _ in range(steps):
        weights = tables.of_responses[:, None]
        # 1. targets, by the target network
        with torch.no_grad():
            values = soft_values(tables.logits, REFERENCE, tables.target, BETA)
            targets = soft_targets(values[STATES], rewards, mask)
        # 2. the policy
        if form == "exact":
            losses = etpo_policy_loss(tables.logits, REFERENCE, tables.q.detach(), BETA)
        else:
            losses = etpo_published_loss(tables.logits, tables.q, BETA)
        step((weights * losses[STATES]).sum(), tables.logits)
        # 3. the critic
        step(
            (weights * etpo_critic_loss(tables.q[STATES, RESPONSES], targets, 10.0)).sum(), tables.q
        )
        # 4. the target network
        tables.target.lerp_(tables.q.detach(), 0.3)
    return tables


def step(loss: Tensor, table: Tensor) -> None:
    (slope,) = torch.autograd.grad(loss, table)
    with torch.no_grad():
        table -= 1.5 * slope


def moved(size: float) -> Tensor:
    """Logits that lean to a in every state, or to b where `size` is negative."""
    return torch.tensor([[size, 0.0]] * 3, dtype=torch.float64)


@pytest.mark.parametrize("size", [0.0, -1.0])
def test_q_values_and_policy_reach_the_known_optimum(size: float) -> None:
    tables = trained(moved(size))
    value = BETA * math.log((math.exp(1 / BETA) + 1) / 2)
    assert value == pytest.approx(0.716890, abs=1e-6)
    close = {"atol": 1e-3, "rtol": 0.0}
    # without log pi_ref, unlike the logits of a language model
    q = torch.tensor([[value, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(tables.q.detach(), q, **close)

    values = soft_values(tables.logits.detach(), REFERENCE, tables.q.detach(), BETA)
    assert values.tolist() == pytest.approx([0.477229, 0.716890, 0.0], abs=1e-3)

    assert tables.policy[:, 0].tolist() == pytest.approx([0.807490, 0.880797, 0.5], abs=1e-3)
    # pi_ref exp(r / beta) / Z of whole responses
    likelihoods = [0.711235, 0.096255, 0.096255, 0.096255]
    assert tables.of_responses.tolist() == pytest.approx(likelihoods, abs=1e-3)
    # beta log pi* / pi_ref of the tokens of aa sums to r - V
    ratios = BETA * (tables.policy / 0.5).log()
    assert ratios[[0, 1], [0, 0]].tolist() == pytest.approx([0.239661, 0.283110], abs=1e-3)


def test_the_published_form_sharpens_what_it_began_with() -> None:
    start = moved(-0.5)
    tables = trained(start, "published", steps=100)
    # the critic learns well enough what aa is worth
    assert float(tables.q.detach()[1, 0]) > 0.5
    before, after = start.softmax(1)[:, 0], tables.policy[:, 0]
    assert bool((after < before - 0.05).all())
    assert float(tables.of_responses[0]) < 0.1


def test_the_published_form_learns_the_same_whatever_is_paid() -> None:
    """Paid for bb in place of aa the exact form goes elsewhere, the published one does not."""
    start = moved(0.1)
    ends = {
        form: [trained(start, form, rewards, 100).policy for rewards in (REWARDS, REWARDS.flip(0))]
        for form in ("exact", "published")
    }
    for_aa, for_bb = ends["published"]
    assert torch.equal(for_aa, for_bb)
    for_aa, for_bb = ends["exact"]
    assert float(for_aa[0, 0]) > 0.7 and float(for_bb[0, 0]) < 0.3
