"""Truncated importance weights: by hand, and what they are for."""

import math

import pytest
import torch

from rlhf.ppo.importance import truncated_weights


@pytest.mark.parametrize(
    ("policy", "sampler", "weight"),
    [
        (0.5, 0.5, 1.0),
        (0.2, 0.4, 0.5),
        (0.6, 0.4, 1.5),
        # 4, cut at 2
        (0.8, 0.2, 2.0),
        # exp(345) is no float32 number
        (1.0, 1e-150, 2.0),
    ],
)
def test_by_hand(policy: float, sampler: float, weight: float) -> None:
    logprobs, sampled = (torch.tensor([math.log(p)]) for p in (policy, sampler))
    assert float(truncated_weights(logprobs, sampled, cap=2.0)) == pytest.approx(weight)


def test_what_the_sampler_drew_counts_as_if_the_policy_had_drawn_it() -> None:
    """Sum of mu w f is that of pi f; what the cap cuts off is missing."""
    policy, sampler = torch.tensor([0.1, 0.3, 0.6]), torch.tensor([0.4, 0.4, 0.2])
    losses = torch.tensor([1.0, -2.0, 5.0])
    weights = truncated_weights(policy.log(), sampler.log(), cap=10.0)
    assert float((sampler * weights * losses).sum()) == pytest.approx(0.1 - 0.6 + 3.0)
    # the third weight is 3
    weights = truncated_weights(policy.log(), sampler.log(), cap=2.0)
    assert float((sampler * weights * losses).sum()) == pytest.approx(0.1 - 0.6 + 0.2 * 2 * 5)


def test_weights_carry_no_gradient() -> None:
    logprobs = torch.tensor([-1.0], requires_grad=True)
    assert not truncated_weights(logprobs, torch.tensor([-1.1]), cap=2.0).requires_grad
