"""Process supervision: numbers by hand, slow loops, gradients."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo import best_of_n, gae, implicit_rewards, solution_scores, step_loss, step_rewards
from rlhf.ppo.steps import Aggregate, StepRule

# five tokens, steps end at the third and the fifth
MASK = torch.ones(1, 5, dtype=torch.bool)
ENDS = torch.tensor([[False, False, True, False, True]])
PROBABILITIES = torch.tensor([[0.0, 0.0, 0.9, 0.0, 0.4]])


def row(values: Tensor) -> list[float]:
    (only,) = values.tolist()
    return only


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# -- learning -----------------------------------------------------------------------------------


def test_the_loss_of_hard_labels_by_hand() -> None:
    logits = torch.tensor([logit(0.9), logit(0.4)])
    losses = step_loss(logits, torch.tensor([1.0, 0.0]))
    assert losses.tolist() == pytest.approx([0.105361, 0.510826], abs=1e-6)
    assert float(losses.sum()) == pytest.approx(0.616186, abs=2e-6)
    assert float(losses.mean()) == pytest.approx(0.308093, abs=1e-6)


def test_the_loss_of_a_soft_label_by_hand() -> None:
    """Three of eight continuations came to the right answer."""
    (loss,) = step_loss(torch.tensor([logit(0.4)]), torch.tensor([3 / 8])).tolist()
    assert loss == pytest.approx(0.662875, abs=1e-6)


def test_an_implicit_reward_model_s_loss_by_hand() -> None:
    """PRIME, which is not among the algorithms: the two formulas that it would be made of agree with it."""
    rewards = implicit_rewards(torch.tensor([0.4, -0.2, 0.6]), torch.zeros(3), 0.05)
    assert rewards.tolist() == pytest.approx([0.02, -0.01, 0.03])
    assert float(rewards.sum().sigmoid()) == pytest.approx(0.509999, abs=1e-6)
    assert float(step_loss(rewards.sum(), torch.tensor(1.0))) == pytest.approx(0.673347, abs=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(6, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(6, generator=random, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: step_loss(z, labels), (logits,))
    step_loss(logits, labels).sum().backward()
    # sigma(z) - y
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() - labels)


# -- token rewards ------------------------------------------------------------------------------


def test_a_sum_by_hand() -> None:
    rewards = step_rewards(PROBABILITIES, ENDS, MASK, "sum")
    assert row(rewards) == pytest.approx([0.0, 0.0, 0.9, 0.0, 0.4])

    _, returns = gae(rewards, torch.zeros(1, 5), MASK, gamma=1.0, lam=1.0)
    assert row(returns) == pytest.approx([1.3, 1.3, 1.3, 0.4, 0.4])
    advantages, _ = gae(rewards, torch.full((1, 5), 0.5), MASK, gamma=1.0, lam=0.95)
    expected = [0.730799, 0.769263, 0.80975, -0.095, -0.1]
    assert row(advantages) == pytest.approx(expected, abs=1e-6)


def test_differences_by_hand() -> None:
    rewards = step_rewards(PROBABILITIES, ENDS, MASK, "difference")
    assert row(rewards) == pytest.approx([0.0, 0.0, 0.9, 0.0, -0.5])
    assert float(rewards.sum()) == pytest.approx(0.4)


def slow_rewards(
    probabilities: list[float], ends: list[int], length: int, rule: StepRule, c: float
) -> list[float]:
    rewards = [0.0] * len(probabilities)
    before = 0.0
    for end in ends:
        if end >= length:
            continue
        rewards[end] = c * (probabilities[end] - (before if rule == "difference" else 0.0))
        before = probabilities[end]
    return rewards


@st.composite
def made_responses(draw: st.DrawFn) -> dict[str, Any]:
    width = draw(st.integers(1, 7))
    count = draw(st.integers(1, 4))
    places = st.lists(st.integers(0, width - 1), unique=True).map(sorted)
    return {
        "lengths": [draw(st.integers(1, width)) for _ in range(count)],
        "ends": [draw(places) for _ in range(count)],
        "probabilities": [
            draw(st.lists(st.floats(0.01, 0.99), min_size=width, max_size=width))
            for _ in range(count)
        ],
    }


def tensors(made: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Whatever stands between step ends and behind the response, it must not count."""
    probabilities = torch.tensor(made["probabilities"], dtype=torch.float64)
    width = probabilities.shape[1]
    ends = torch.zeros(probabilities.shape, dtype=torch.bool)
    for number, places in enumerate(made["ends"]):
        ends[number, places] = True
    mask = torch.arange(width)[None] < torch.tensor(made["lengths"])[:, None]
    return probabilities, ends, mask


@pytest.mark.parametrize("rule", ["sum", "difference"])
@given(made=made_responses())
def test_token_rewards_equal_a_loop(rule: StepRule, made: dict[str, Any]) -> None:
    probabilities, ends, mask = tensors(made)
    rewards = step_rewards(probabilities, ends, mask, rule, coefficient=0.5)
    for number, length in enumerate(made["lengths"]):
        one = made["probabilities"][number], made["ends"][number]
        expected = slow_rewards(*one, length, rule, 0.5)
        assert rewards[number].tolist() == pytest.approx(expected, abs=1e-12)


@given(made=made_responses())
def test_more_steps_pay_more_by_the_sum_and_no_more_by_the_difference(
    made: dict[str, Any],
) -> None:
    probabilities, ends, mask = tensors(made)
    once = {rule: step_rewards(probabilities, ends, mask, rule) for rule in ("sum", "difference")}
    # the same step scores once more, behind the others
    twice_p, twice_ends, twice_mask = (torch.cat([part, part], dim=1) for part in (
        probabilities, ends & mask, torch.ones_like(mask)
    ))  # fmt: skip
    twice = {rule: step_rewards(twice_p, twice_ends, twice_mask, rule) for rule in once}
    torch.testing.assert_close(twice["sum"].sum(1), 2 * once["sum"].sum(1))
    torch.testing.assert_close(twice["difference"].sum(1), once["difference"].sum(1))
    # which is the score of the last step
    last = solution_scores(probabilities, ends, mask, "last")
    torch.testing.assert_close(once["difference"].sum(1), last)


def test_a_response_without_a_step_that_ends_is_paid_nothing() -> None:
    for rule in ("sum", "difference"):
        rewards = step_rewards(PROBABILITIES, torch.zeros_like(ENDS), MASK, rule)
        assert rewards.abs().sum() == 0


# -- ranking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aggregate", "score"), [("product", 0.36), ("min", 0.4), ("last", 0.4)])
def test_aggregates_by_hand(aggregate: Aggregate, score: float) -> None:
    assert row(solution_scores(PROBABILITIES, ENDS, MASK, aggregate)[None]) == pytest.approx(
        [score]
    )


@pytest.mark.parametrize("aggregate", ["min", "product", "last"])
@given(made=made_responses())
def test_aggregates_equal_a_loop(aggregate: Aggregate, made: dict[str, Any]) -> None:
    scores = solution_scores(*tensors(made), aggregate)
    for number, length in enumerate(made["lengths"]):
        counted = [made["probabilities"][number][e] for e in made["ends"][number] if e < length]
        of = {"min": min, "product": math.prod, "last": lambda values: values[-1]}[aggregate]
        # nothing speaks for a response without a step that ends
        expected = of(counted) if counted else 0.0
        assert float(scores[number]) == pytest.approx(expected, rel=1e-9)


def test_a_cut_response_does_not_win_by_having_no_step() -> None:
    probabilities, ends = PROBABILITIES.repeat(2, 1), ENDS.repeat(2, 1)
    ends[0] = False
    scores = solution_scores(probabilities, ends, MASK.repeat(2, 1), "product")
    assert best_of_n(scores, 2).tolist() == [1]


def test_the_best_of_each_prompts_responses() -> None:
    scores = torch.tensor([0.1, 0.7, 0.3, 0.9, 0.2, 0.9])
    assert best_of_n(scores, 3).tolist() == [1, 3]
    assert best_of_n(scores, 2).tolist() == [1, 3, 5]
    assert best_of_n(scores, 1).tolist() == [0, 1, 2, 3, 4, 5]
    # of equals the first
    assert best_of_n(torch.zeros(4), 4).tolist() == [0]
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"6 responses are no groups of {n}"):
            best_of_n(scores, n)
