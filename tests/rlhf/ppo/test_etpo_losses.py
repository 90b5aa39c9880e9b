"""ETPO's formulas: numbers worked out by hand, plain loops, finite differences."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.etpo import (
    etpo_critic_loss,
    etpo_policy_loss,
    etpo_published_loss,
    exact_kl,
    q_spread,
    soft_targets,
    soft_values,
)

UNIFORM = [0.5, 0.5]
POLICY = [0.7, 0.3]
Q = [1.0, 0.2]
SWAPPED = [0.2, 1.0]

ROWS = st.lists(st.floats(-4, 4), min_size=3, max_size=3)
BETAS = st.floats(0.01, 2)


def tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def logits_of(probabilities: Sequence[float]) -> Tensor:
    """Logits [1, V]; a constant on all of them changes nothing."""
    return tensor(probabilities).log() + 3.0


def slopes(loss: Tensor, free: Tensor) -> list[float]:
    loss.sum().backward()
    assert free.grad is not None
    found: list[float] = free.grad[0].tolist()
    return found


# -- soft values and targets --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "q", "expected_q", "kl", "value"),
    [
        (POLICY, Q, 0.76, 0.0822829, 0.7517717),
        ([0.2, 0.8], [0.5, 0.9], 0.82, 0.1927448, 0.8007255),
    ],
)
def test_soft_values_by_hand(
    policy: list[float], q: list[float], expected_q: float, kl: float, value: float
) -> None:
    logits, reference = logits_of(policy), logits_of(UNIFORM)
    assert exact_kl(logits, reference).tolist() == pytest.approx([kl], abs=1e-7)
    assert soft_values(logits, reference, tensor(q), 0.1).tolist() == pytest.approx([value])
    # at the reference there is no divergence
    assert soft_values(logits, logits, tensor(q), 0.1).tolist() == pytest.approx([expected_q])


def test_the_last_token_s_target_is_the_score() -> None:
    """One of 0.2; with another turn after it, discounted by 0.99, it would be 0.9927183."""
    value = float(soft_values(logits_of([0.2, 0.8]), logits_of(UNIFORM), tensor([0.5, 0.9]), 0.1))
    assert 0.2 + 0.99 * value == pytest.approx(0.9927183, abs=1e-7)
    values, mask = torch.tensor([[value]]), torch.tensor([[True]])
    assert soft_targets(values, torch.tensor([0.2]), mask).tolist() == [[pytest.approx(0.2)]]


def test_every_other_token_s_target_is_the_value_of_the_state_after_it() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    # what stands in the padding must not matter
    values = torch.tensor([[0.1, 0.7517717, 0.3], [0.4, 0.5, 9.0], [0.6, 9.0, 9.0]])
    scores = torch.tensor([2.0, -1.0, 0.25])
    expected = torch.tensor([[0.7517717, 0.3, 2.0], [0.5, -1.0, 0.0], [0.25, 0.0, 0.0]])
    torch.testing.assert_close(soft_targets(values, scores, mask), expected)


@given(ROWS, ROWS, ROWS, BETAS)
def test_soft_values_equal_a_loop(
    row: list[float], reference: list[float], q: list[float], beta: float
) -> None:
    total = 0.0
    for logit, other, value in zip(row, reference, q, strict=True):
        log_p = logit - math.log(sum(math.exp(each) for each in row))
        log_ref = other - math.log(sum(math.exp(each) for each in reference))
        total += math.exp(log_p) * (value - beta * (log_p - log_ref))
    found = soft_values(tensor(row), tensor(reference), tensor(q), beta)
    assert found.tolist() == pytest.approx([total], abs=1e-9)


# -- the critic ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "delta", "loss", "slope"),
    [
        (0.6, 10.0, 0.0115173, -0.1517717),
        (0.6, None, 0.0115173, -0.1517717),
        # 0.1 (0.1517717 - 0.05), on either side
        (0.6, 0.1, 0.0101772, -0.1),
        (0.9035434, 0.1, 0.0101772, 0.1),
        (20.7517717, None, 200.0, 20.0),
        (20.7517717, 10.0, 150.0, 10.0),
    ],
)
def test_the_critic_s_loss_by_hand(
    q: float, delta: float | None, loss: float, slope: float
) -> None:
    free = tensor([q]).requires_grad_()
    losses = etpo_critic_loss(free, tensor([0.7517717]), delta)
    assert losses[0].tolist() == pytest.approx([loss], abs=1e-6)
    assert slopes(losses, free) == pytest.approx([slope], abs=1e-6)


# -- the policy ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "loss", "slope"), [(Q, -0.7188586, -0.0790337), (SWAPPED, -0.3988586, 0.2569663)]
)
def test_the_policy_s_loss_by_hand(q: list[float], loss: float, slope: float) -> None:
    free = logits_of(POLICY).requires_grad_()
    losses = etpo_policy_loss(free, logits_of(UNIFORM), tensor(q), 0.5)
    assert losses.tolist() == pytest.approx([loss], abs=1e-7)
    # the logit of the first token rises with the first Q, and falls with the second
    assert slopes(losses, free) == pytest.approx([slope, -slope], abs=1e-7)


def test_the_loss_is_the_distance_from_the_best_policy() -> None:
    """beta KL(pi || pi*) - V*."""
    best = [0.832018, 0.167982]
    at_best = float(etpo_policy_loss(logits_of(best), logits_of(UNIFORM), tensor(Q), 0.5))
    assert -at_best == pytest.approx(0.7453768, abs=1e-7)
    gap = float(etpo_policy_loss(logits_of(POLICY), logits_of(UNIFORM), tensor(Q), 0.5)) - at_best
    assert gap == pytest.approx(0.0265182, abs=1e-6)
    divergence = float(exact_kl(logits_of(POLICY), logits_of(best)))
    assert gap == pytest.approx(0.5 * divergence, abs=1e-6)


@pytest.mark.parametrize("q", [Q, SWAPPED, [5.0, -5.0]])
def test_the_published_loss_has_one_gradient_for_every_q(q: list[float]) -> None:
    free, values = logits_of(POLICY).requires_grad_(), tensor(q).requires_grad_()
    losses = etpo_published_loss(free, values, 0.5)
    mean_logprob = (math.log(0.7) + math.log(0.3)) / 2
    expected = 0.5 * mean_logprob - sum(q) / 2
    assert losses.tolist() == pytest.approx([expected])
    assert slopes(losses, free) == pytest.approx([-0.1, 0.1])
    # the critic does not learn from the policy's loss
    assert values.grad is None


Loss = Callable[[Tensor], Tensor]


def slopes_by_differences(loss: Loss, row: list[float]) -> list[float]:
    size, found = 1e-5, []
    for place in range(len(row)):
        ends = []
        for sign in (1, -1):
            moved = list(row)
            moved[place] += sign * size
            ends.append(float(loss(tensor(moved)).sum()))
        found.append((ends[0] - ends[1]) / (2 * size))
    return found


@given(ROWS, ROWS, ROWS, BETAS)
def test_gradients_equal_finite_differences(
    row: list[float], reference: list[float], q: list[float], beta: float
) -> None:
    def exact(logits: Tensor) -> Tensor:
        return etpo_policy_loss(logits, tensor(reference), tensor(q), beta)

    def published(logits: Tensor) -> Tensor:
        return etpo_published_loss(logits, tensor(q), beta)

    def critic(values: Tensor) -> Tensor:
        return etpo_critic_loss(values, tensor(reference), beta)

    for loss in (exact, published, critic):
        free = tensor(row).requires_grad_()
        found = slopes(loss(free), free)
        assert found == pytest.approx(slopes_by_differences(loss, row), rel=1e-5, abs=1e-5)


# -- what is watched ----------------------------------------------------------------------------


def test_the_spread_of_q_by_hand() -> None:
    # mean 0.76: 0.7 x 0.24^2 + 0.3 x 0.56^2 = 0.1344
    assert q_spread(logits_of(POLICY), tensor(Q)).tolist() == pytest.approx([0.1344**0.5])
    assert q_spread(logits_of(POLICY), tensor([0.3, 0.3])).tolist() == pytest.approx([0.0])
