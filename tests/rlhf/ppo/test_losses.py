import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.losses import adapted, entropy_loss, policy_kl, surrogate, value_loss

NUMBERS = st.floats(-3, 3)


def surrogate_of(ratio: float, advantage: float, epsilon: float | None) -> tuple[Tensor, Tensor]:
    """The surrogate of one token whose probability has changed by `ratio`, and that ratio."""
    logprobs, old = torch.tensor([ratio]).log(), torch.zeros(1)
    return surrogate(logprobs, old, torch.tensor([advantage]), epsilon)


def slope(ratio: float, advantage: float, epsilon: float | None) -> float:
    """d loss / d log p of one token whose probability has changed by `ratio`."""
    logprobs = torch.tensor([ratio]).log().requires_grad_()
    losses, _ = surrogate(logprobs, torch.zeros(1), torch.tensor([advantage]), epsilon)
    losses.sum().backward()
    assert logprobs.grad is not None
    return float(logprobs.grad)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        # the gain is cut at 1.2 * 2
        (1.5, 2.0, -2.4),
        # a fall of what was good counts in full
        (0.5, 2.0, -1.0),
        # the gain is cut at 0.8 * -2
        (0.5, -2.0, 1.6),
        # a rise of what was bad counts in full
        (1.5, -2.0, 3.0),
        (1.1, 2.0, -2.2),
    ],
)
def test_surrogate_by_hand(ratio: float, advantage: float, loss: float) -> None:
    losses, ratios = surrogate_of(ratio, advantage, 0.2)
    assert float(losses) == pytest.approx(loss)
    assert float(ratios) == pytest.approx(ratio)


def test_gradient_stops_where_a_further_step_would_only_leave_the_trust_region() -> None:
    assert slope(1.5, 2.0, 0.2) == 0.0
    assert slope(0.5, -2.0, 0.2) == 0.0
    # -ratio * advantage: the way back stays open
    assert slope(0.5, 2.0, 0.2) == pytest.approx(-1.0)
    assert slope(1.5, -2.0, 0.2) == pytest.approx(3.0)
    assert slope(1.0, 2.0, 0.2) == pytest.approx(-2.0)


@given(st.floats(0.1, 5), NUMBERS)
def test_surrogate_without_clipping_is_the_importance_weighted_advantage(
    ratio: float, advantage: float
) -> None:
    plain, _ = surrogate_of(ratio, advantage, None)
    assert float(plain) == pytest.approx(-ratio * advantage, rel=1e-5, abs=1e-6)
    assert slope(ratio, advantage, None) == pytest.approx(-ratio * advantage, rel=1e-5, abs=1e-6)


@given(st.floats(0.1, 5), NUMBERS, st.floats(0.01, 0.9))
def test_surrogate_equals_a_loop(ratio: float, advantage: float, epsilon: float) -> None:
    clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
    losses, _ = surrogate_of(ratio, advantage, epsilon)
    expected = -min(ratio * advantage, clipped * advantage)
    assert float(losses) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "clipped"),
    [
        # 1/2 (1 - 2)^2
        (1.0, 1.0, 2.0, 0.5, False),
        # right, but it moved by more than 0.2: judged at 1.2
        (2.0, 1.0, 2.0, 0.32, True),
        # moved away: 1/2 (0 - 2)^2 is the larger one
        (0.0, 1.0, 2.0, 2.0, False),
        # within the band
        (1.1, 1.0, 2.0, 0.405, False),
    ],
)
def test_value_loss_by_hand(
    value: float, old: float, target: float, loss: float, clipped: bool
) -> None:
    tensors = (torch.tensor([number]) for number in (value, old, target))
    losses, won = value_loss(*tensors, 0.2)
    assert float(losses) == pytest.approx(loss)
    assert bool(won) is clipped


@given(NUMBERS, NUMBERS, NUMBERS, st.floats(0.01, 2))
def test_value_loss_equals_a_loop_and_is_never_below_the_plain_one(
    value: float, old: float, target: float, clip: float
) -> None:
    tensors = [torch.tensor([number], dtype=torch.float64) for number in (value, old, target)]
    bounded = min(max(value, old - clip), old + clip)
    expected = 0.5 * max((value - target) ** 2, (bounded - target) ** 2)
    losses, _ = value_loss(*tensors, clip)
    assert float(losses) == pytest.approx(expected, abs=1e-9)
    plain, won = value_loss(*tensors, None)
    assert float(plain) == pytest.approx(0.5 * (value - target) ** 2, abs=1e-9)
    assert not won.any() and float(losses) >= float(plain) - 1e-12


def test_policy_kl_by_hand() -> None:
    # rho - 1 - ln rho
    found = policy_kl(torch.tensor([1.0, 2.0, 0.5]))
    assert found.tolist() == pytest.approx([0.0, 0.306853, 0.193147], abs=1e-6)


@given(st.integers(0, 1000))
def test_policy_kl_and_its_gradient_are_unbiased(seed: int) -> None:
    """The mean over all tokens under the old policy, taken exactly, is torch's own divergence."""
    random = torch.Generator().manual_seed(seed)
    logits, old = (torch.randn(6, generator=random, dtype=torch.float64) for _ in range(2))
    old_logprobs = old.log_softmax(0)

    exact = logits.clone().requires_grad_()
    kl_div = torch.nn.functional.kl_div
    divergence = kl_div(exact.log_softmax(0), old_logprobs, log_target=True, reduction="sum")
    divergence.backward()

    free = logits.clone().requires_grad_()
    ratios = (free.log_softmax(0) - old_logprobs).exp()
    estimate = (old_logprobs.exp() * policy_kl(ratios)).sum()
    estimate.backward()

    assert float(estimate.detach()) == pytest.approx(float(divergence.detach()), abs=1e-12)
    assert exact.grad is not None and free.grad is not None
    torch.testing.assert_close(free.grad, exact.grad)


def test_policy_kl_has_no_slope_where_the_policies_agree() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_kl((logprobs - logprobs.detach()).exp()).sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("divergence", "weight"),
    [
        (0.0, 0.5),
        (0.0066, 0.5),
        (0.0067, 1.0),
        (0.01, 1.0),
        (0.0149, 1.0),
        (0.0151, 2.0),
        (9.0, 2.0),
    ],
)
def test_the_penalty_s_weight_follows_its_target(divergence: float, weight: float) -> None:
    assert adapted(1.0, divergence, 0.01) == weight


def test_entropy_loss_by_hand() -> None:
    entropies = torch.tensor([1.0, 2.5, 4.0])
    assert entropy_loss(entropies, None).tolist() == [-1.0, -2.5, -4.0]
    assert entropy_loss(entropies, 3.0).tolist() == [2.0, 0.5, 1.0]


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_the_entropy_is_drawn_towards_its_target_from_either_side(
    value: float, target: float
) -> None:
    entropies = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    entropy_loss(entropies, target).sum().backward()
    assert entropies.grad is not None
    # |x|' = sign(x)
    expected = torch.sign(entropies.detach() - target)
    assert torch.equal(entropies.grad, expected)
