"""XPO's exploration term, alone and with DPO's loss: by hand, with both signs of the gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.dpo import dpo_loss
from rlhf.ppo.xpo import alpha_at, bounded_exploration_term, exploration_term

BETA = 0.1
# sums: h = 0.1 (0.5 + 0.8) = 0.13, DPO's part 0.630258, its gradient 0.0467546
CHOSEN, REFERENCE_CHOSEN = -3.0, -3.5
REJECTED, REFERENCE_REJECTED = -4.0, -3.2


def tensor(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def whole(alpha: float, *, second_is_chosen: bool) -> tuple[float, float, float]:
    """The loss of the pair above, and its gradients on the chosen and on the rejected response."""
    chosen, rejected = tensor(CHOSEN).requires_grad_(), tensor(REJECTED).requires_grad_()
    reference = tensor(REFERENCE_CHOSEN), tensor(REFERENCE_REJECTED)
    losses = dpo_loss(chosen, rejected, *reference, BETA)
    losses = losses + exploration_term(chosen if second_is_chosen else rejected, alpha)
    losses.sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    return float(losses.detach()), float(chosen.grad), float(rejected.grad)


@pytest.mark.parametrize(
    ("alpha", "second_is_chosen", "loss", "up", "down"),
    [
        # larger than DPO's 0.0467546: the chosen response is pushed down
        (0.1, True, 0.330258, 0.0532454, 0.0467546),
        (0.1, False, 0.230258, -0.0467546, 0.1467546),
        (1e-5, True, 0.630228, -0.0467446, 0.0467546),
        (1e-5, False, 0.630218, -0.0467546, 0.0467646),
        (0.0, True, 0.630258, -0.0467546, 0.0467546),
    ],
)
def test_by_hand(alpha: float, second_is_chosen: bool, loss: float, up: float, down: float) -> None:
    found = whole(alpha, second_is_chosen=second_is_chosen)
    assert found == pytest.approx((loss, up, down), abs=1e-6)


LOGPROBS = st.floats(-2000, 0)
ALPHAS = st.floats(0, 1)


@given(LOGPROBS, ALPHAS)
def test_the_term_equals_its_formula(logprob: float, alpha: float) -> None:
    assert exploration_term(tensor(logprob), alpha).tolist() == pytest.approx([alpha * logprob])


@given(LOGPROBS, LOGPROBS, ALPHAS)
def test_the_bounded_term_equals_its_formula(
    logprob: float, reference: float, alpha: float
) -> None:
    found = bounded_exploration_term(tensor(logprob), tensor(reference), alpha)
    expected = alpha * max(-500.0, min(500.0, logprob - reference))
    assert found.tolist() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("logprob", "value", "slope"),
    [(-10.0, -5.0, 0.5), (-600.0, -250.0, 0.0), (700.0, 250.0, 0.0)],
)
def test_beyond_its_bound_the_term_teaches_nothing(
    logprob: float, value: float, slope: float
) -> None:
    free = tensor(logprob).requires_grad_()
    losses = bounded_exploration_term(free, tensor(0.0), 0.5)
    losses.sum().backward()
    assert losses.tolist() == [value]
    assert free.grad is not None and free.grad.tolist() == [slope]


@given(st.floats(-50, -1), st.floats(-50, -1))
def test_the_gradients_equal_finite_differences(logprob: float, reference: float) -> None:
    for term in (
        lambda value: exploration_term(value, 0.3),
        lambda value: bounded_exploration_term(value, tensor(reference), 0.3),
    ):
        free = tensor(logprob).requires_grad_()
        term(free).sum().backward()
        above, below = (float(term(tensor(logprob + shift))) for shift in (1e-4, -1e-4))
        assert free.grad is not None
        assert float(free.grad) == pytest.approx((above - below) / 2e-4, abs=1e-6)


def test_the_last_weight_holds_on() -> None:
    assert [alpha_at((1e-5, 5e-6, 0.0), iteration) for iteration in range(5)] == [
        1e-5,
        5e-6,
        0.0,
        0.0,
        0.0,
    ]
    assert [alpha_at((0.2,), iteration) for iteration in range(3)] == [0.2] * 3
