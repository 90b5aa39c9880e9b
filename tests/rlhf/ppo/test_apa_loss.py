import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.apa import apa_loss, awr_loss

LOGPROBS = [-1.0, -0.5, -2.0]
REFERENCE = [-1.2, -0.5, -1.5]
ADVANTAGES = [0.05, -0.02, 0.1]

NUMBERS = st.floats(-5, 5)
LAMBDAS = st.floats(0.05, 5)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("lam", "residuals", "mean", "slopes"),
    [
        # targets -0.7, -0.7, -0.5
        (0.1, [-0.3, 0.2, -1.5], 0.793333, [-0.2, 0.133333, -1.0]),
        # targets -1.15, -0.52, -1.4
        (1.0, [0.15, 0.02, -0.6], 0.127633, [0.1, 0.0133333, -0.4]),
    ],
)
def test_by_hand(lam: float, residuals: list[float], mean: float, slopes: list[float]) -> None:
    logprobs = tensor(LOGPROBS).requires_grad_()
    losses = apa_loss(logprobs, tensor(REFERENCE), tensor(ADVANTAGES), lam)
    assert losses.tolist() == pytest.approx([residual**2 for residual in residuals])
    assert float(losses.mean().detach()) == pytest.approx(mean, abs=1e-6)

    losses.mean().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(slopes, abs=1e-6)


@given(NUMBERS, NUMBERS, NUMBERS, LAMBDAS)
def test_it_equals_a_loop(logprob: float, reference: float, advantage: float, lam: float) -> None:
    found = apa_loss(tensor([logprob]), tensor([reference]), tensor([advantage]), lam)
    expected = (logprob - reference - advantage / lam) ** 2
    assert found.tolist() == pytest.approx([expected], abs=1e-9)


@given(NUMBERS, NUMBERS, NUMBERS, LAMBDAS)
def test_the_gradient_equals_finite_differences(
    logprob: float, reference: float, advantage: float, lam: float
) -> None:
    fixed = (tensor([reference]), tensor([advantage]), lam)
    free = tensor([logprob]).requires_grad_()
    apa_loss(free, *fixed).sum().backward()
    size = 1e-4
    above = float(apa_loss(tensor([logprob + size]), *fixed))
    below = float(apa_loss(tensor([logprob - size]), *fixed))
    assert free.grad is not None
    assert float(free.grad) == pytest.approx((above - below) / (2 * size), rel=1e-6, abs=1e-6)


def test_nothing_is_left_to_learn_at_the_target() -> None:
    """The target is pi_ref exp(A / lambda): better tokens rise above the reference."""
    reference, advantages = tensor(REFERENCE), tensor(ADVANTAGES)
    target = (reference + advantages / 0.5).requires_grad_()
    losses = apa_loss(target, reference, advantages, 0.5)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0, 0.0]
    assert target.grad is not None and target.grad.tolist() == [0.0, 0.0, 0.0]


def test_the_targets_of_all_tokens_are_no_distribution() -> None:
    """Z is taken for 1, which holds to second order in A / lambda only: here it is 1.1276."""
    reference, advantages = tensor([0.5, 0.3, 0.2]), tensor([0.05, -0.05, -0.05])
    targets = (reference.log() + advantages / 0.1).exp()
    losses = apa_loss(targets.log(), reference.log(), advantages, 0.1)
    assert losses.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert targets.tolist() == pytest.approx([0.8244, 0.1820, 0.1213], abs=1e-4)
    assert float(targets.sum()) == pytest.approx(1.1276, abs=1e-4)
    of_best = targets / targets.sum()
    assert of_best.tolist() == pytest.approx([0.7311, 0.1614, 0.1076], abs=1e-4)


def test_the_first_step_is_the_policy_gradient_times_two_over_lambda() -> None:
    """On what the policy samples: -2 / lambda (grad E[A] - lambda grad KL(pi || pi_ref))."""
    reference, advantages = tensor([0.5, 0.3, 0.2]).log(), tensor([0.4, -0.1, 0.3])
    lam, start = 0.1, tensor([0.3, -0.2, 0.5])
    free = start.clone().requires_grad_()
    logprobs = free.log_softmax(dim=0)
    losses = apa_loss(logprobs, reference, advantages, lam)
    (logprobs.detach().exp() * losses).sum().backward()

    exact = start.clone().requires_grad_()
    policy = exact.softmax(dim=0)
    (policy * (advantages - lam * (policy.log() - reference))).sum().backward()
    assert free.grad is not None and exact.grad is not None
    torch.testing.assert_close(free.grad, -2 / lam * exact.grad)


def test_a_large_lambda_holds_the_policy_to_the_reference() -> None:
    logprobs, reference = tensor(LOGPROBS), tensor(REFERENCE)
    losses = apa_loss(logprobs, reference, tensor(ADVANTAGES), 1e9)
    torch.testing.assert_close(losses, (logprobs - reference).square())


# -- advantage-weighted regression --------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "weights", "mean"),
    [
        (0.1, [1.648721, 0.818731, 2.718282], 2.498217),
        (1.0, [1.051271, 0.980199, 1.105171], 1.250571),
    ],
)
def test_awr_by_hand(lam: float, weights: list[float], mean: float) -> None:
    logprobs = tensor(LOGPROBS).requires_grad_()
    losses = awr_loss(logprobs, tensor(ADVANTAGES), lam)
    expected = [-weight * log for weight, log in zip(weights, LOGPROBS, strict=True)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)
    assert float(losses.mean().detach()) == pytest.approx(mean, abs=1e-6)

    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-weight for weight in weights], abs=1e-6)


@given(NUMBERS, NUMBERS, st.floats(0.5, 5))
def test_the_gradient_of_awr_equals_finite_differences(
    logprob: float, advantage: float, lam: float
) -> None:
    free = tensor([logprob]).requires_grad_()
    awr_loss(free, tensor([advantage]), lam).sum().backward()
    size = 1e-4
    above = float(awr_loss(tensor([logprob + size]), tensor([advantage]), lam))
    below = float(awr_loss(tensor([logprob - size]), tensor([advantage]), lam))
    assert free.grad is not None
    assert float(free.grad) == pytest.approx((above - below) / (2 * size), rel=1e-6, abs=1e-6)


def test_awr_never_lowers_what_was_sampled() -> None:
    """A bad token is imitated less, where APA would push it down."""
    bad = tensor([-2.0])
    slopes = []
    for loss in (
        lambda logprobs: awr_loss(logprobs, bad, 1.0),
        lambda logprobs: apa_loss(logprobs, tensor([-1.0]), bad, 1.0),
    ):
        free = tensor([-1.0]).requires_grad_()
        loss(free).sum().backward()
        assert free.grad is not None
        slopes.append(float(free.grad))
    assert slopes[0] < 0 < slopes[1]
