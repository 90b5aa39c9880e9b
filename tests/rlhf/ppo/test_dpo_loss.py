import math
from collections.abc import Callable

import pytest
import torch
import two_tokens
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from two_tokens import BETA, OPTIMUM, PROBABILITIES, REWARDS, TOKEN_REWARDS

from rlhf.ppo.dpo import dpo_loss, implicit_rewards, ipo_loss

# log pi and log pi_ref of each token of a chosen and a rejected answer
CHOSEN, REFERENCE_CHOSEN = [-0.5, -1.2, -0.3], [-0.7, -0.9, -0.8]
REJECTED, REFERENCE_REJECTED = [-0.6, -2.0], [-0.5, -1.1]

NUMBERS = st.floats(-20, 0)
BETAS = st.floats(0.05, 2)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_of_tokens(
    chosen: Tensor, rejected: Tensor, loss: Callable[..., Tensor], **named: float
) -> Tensor:
    """The loss of the pair above, from the log-probabilities of its tokens."""
    sums = [values.sum().view(1) for values in (chosen, rejected)]
    reference = [tensor(values).sum().view(1) for values in (REFERENCE_CHOSEN, REFERENCE_REJECTED)]
    return loss(*sums, *reference, beta=0.1, **named)


def test_token_rewards_by_hand() -> None:
    chosen = implicit_rewards(tensor(CHOSEN), tensor(REFERENCE_CHOSEN), 0.1)
    rejected = implicit_rewards(tensor(REJECTED), tensor(REFERENCE_REJECTED), 0.1)
    assert chosen.tolist() == pytest.approx([0.02, -0.03, 0.05])
    assert rejected.tolist() == pytest.approx([-0.01, -0.09])
    assert float(chosen.sum() - rejected.sum()) == pytest.approx(0.14)


@pytest.mark.parametrize(
    ("smoothing", "value", "coefficient"), [(0.0, 0.625595, 0.0465057), (0.1, 0.639595, 0.0365057)]
)
def test_every_token_of_an_answer_gets_the_same_gradient(
    smoothing: float, value: float, coefficient: float
) -> None:
    chosen, rejected = tensor(CHOSEN).requires_grad_(), tensor(REJECTED).requires_grad_()
    loss = loss_of_tokens(chosen, rejected, dpo_loss, label_smoothing=smoothing)
    assert loss.tolist() == pytest.approx([value], abs=1e-6)
    loss.sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-coefficient] * 3, abs=1e-7)
    assert rejected.grad.tolist() == pytest.approx([coefficient] * 2, abs=1e-7)


def test_ipo_by_hand() -> None:
    """(1.4 - 5)^2: a difference of log-ratios beyond 1 / (2 beta) costs again."""
    assert loss_of_tokens(tensor(CHOSEN), tensor(REJECTED), ipo_loss).tolist() == pytest.approx(
        [12.96]
    )
    at_target = ipo_loss(tensor([-1.0]), tensor([-6.0]), tensor([-1.0]), tensor([-1.0]), beta=0.1)
    assert at_target.tolist() == pytest.approx([0.0], abs=1e-12)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, BETAS, st.floats(0, 0.49))
def test_it_equals_plain_python(
    chosen: float, rejected: float, above: float, below: float, beta: float, smoothing: float
) -> None:
    h = beta * ((chosen - above) - (rejected - below))
    expected = (1 - smoothing) * math.log1p(math.exp(-h)) + smoothing * math.log1p(math.exp(h))
    sums = [tensor([value]) for value in (chosen, rejected, above, below)]
    assert float(dpo_loss(*sums, beta, smoothing)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    expected = ((chosen - above) - (rejected - below) - 0.5 / beta) ** 2
    assert float(ipo_loss(*sums, beta)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(NUMBERS, NUMBERS, BETAS, st.floats(0, 0.49), st.booleans())
def test_gradients_equal_finite_differences(
    chosen: float, rejected: float, beta: float, smoothing: float, squared: bool
) -> None:
    def loss(one: Tensor, other: Tensor) -> Tensor:
        fixed = (tensor([-3.0]), tensor([-2.0]))
        if squared:
            return ipo_loss(one, other, *fixed, beta)
        return dpo_loss(one, other, *fixed, beta, smoothing)

    free = [tensor([value]).requires_grad_() for value in (chosen, rejected)]
    loss(*free).sum().backward()
    size = 1e-5
    for place, value in enumerate(free):
        ends = []
        for sign in (1, -1):
            moved = [one.detach().clone() for one in free]
            moved[place] += sign * size
            ends.append(float(loss(*moved)))
        assert value.grad is not None
        slope = (ends[0] - ends[1]) / (2 * size)
        assert float(value.grad) == pytest.approx(slope, rel=1e-4, abs=1e-6)


# -- the fixture -----------------------------------------------------------------------------------


def test_the_optimum_of_the_fixture_has_the_rewards_of_the_table() -> None:
    uniform = two_tokens.token_logprobs(torch.full((3,), 0.5, dtype=torch.float64))
    logprobs = two_tokens.token_logprobs(OPTIMUM)
    rewards = implicit_rewards(logprobs, uniform, BETA)
    torch.testing.assert_close(rewards, tensor(TOKEN_REWARDS), atol=2e-6, rtol=0)  # type: ignore[arg-type]
    assert logprobs.sum(dim=1).exp().tolist() == pytest.approx(PROBABILITIES, abs=1e-5)


def test_a_response_s_rewards_add_up_to_its_reward_less_the_first_state_s_value() -> None:
    """r(y) - V(s_0); and their mean under pi_ref is below 0, so that likelihoods may fall."""
    uniform = two_tokens.token_logprobs(torch.full((3,), 0.5, dtype=torch.float64))
    optimum = two_tokens.token_logprobs(OPTIMUM)
    sums = implicit_rewards(optimum, uniform, BETA).sum(dim=1)
    assert sums.tolist() == pytest.approx([0.522771, -0.477229, -0.477229, -0.477229], abs=2e-6)
    torch.testing.assert_close(sums, REWARDS - 0.477229, atol=2e-6, rtol=0)
    # -beta KL(pi_ref || pi*), arXiv 2404.12358, eq. 16
    assert float(sums.mean()) == pytest.approx(-0.227229, abs=2e-6)
    divergence = float((math.log(0.25) - optimum.sum(dim=1)).mean())
    assert float(sums.mean()) == pytest.approx(-BETA * divergence)


def test_a_table_fitted_on_exact_preferences_reaches_it() -> None:
    """eq. 1: y beats y' with probability sigmoid(r(y) - r(y')); the loss is the expected one."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reference = two_tokens.token_logprobs(torch.full((3,), 0.5, dtype=torch.float64)).sum(dim=1)
    ordered = [(one, two) for one in range(4) for two in range(4) if one != two]
    first, second = (torch.tensor(places) for places in zip(*ordered, strict=True))
    chances = torch.sigmoid(REWARDS[first] - REWARDS[second])

    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10)

    def closure() -> float:
        optimizer.zero_grad()
        sums = two_tokens.token_logprobs(torch.sigmoid(logits)).sum(dim=1)
        losses = dpo_loss(sums[first], sums[second], reference[first], reference[second], BETA)
        loss = (chances * losses).sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    fitted = torch.sigmoid(logits.detach())
    torch.testing.assert_close(fitted, OPTIMUM, atol=1e-3, rtol=0)
