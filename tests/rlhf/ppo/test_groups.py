"""Advantages of groups, and losses of whole responses: by hand, by loops, by finite differences."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import simulate_processes
from torch import Tensor

from rlhf.ppo.groups import (
    group_advantages,
    group_mean,
    leave_one_out,
    response_weights,
    reward_to_go,
    sequence_surrogate,
)

# a group of three, two groups of two
REWARDS = [1.0, 2.0, 6.0]
SCORES = st.lists(st.floats(-5, 5), min_size=12, max_size=12)
GROUPS = st.sampled_from([2, 3, 4, 6, 12])
SEEDS = st.integers(0, 10_000)


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def alone(value: Tensor) -> Tensor:
    return value


# -- advantages ---------------------------------------------------------------------------------


def test_leave_one_out_by_hand() -> None:
    # the others' means are 4, 3.5 and 1.5
    assert leave_one_out(tensor(REWARDS), 3).tolist() == pytest.approx([-3.0, -1.5, 4.5])
    # a group knows nothing of the next one
    found = leave_one_out(tensor([1.0, 3.0, 100.0, 104.0]), 2)
    assert found.tolist() == pytest.approx([-2.0, 2.0, -4.0, 4.0])


@given(SCORES, GROUPS)
def test_leave_one_out_equals_a_loop(scores: list[float], responses: int) -> None:
    found = leave_one_out(tensor(scores), responses).tolist()
    expected = []
    for row, score in enumerate(scores):
        start = row - row % responses
        others = [scores[i] for i in range(start, start + responses) if i != row]
        expected.append(score - sum(others) / len(others))
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # mean 3, std sqrt(7)
        ("group", [-2 / (7**0.5 + 1e-4), -1 / (7**0.5 + 1e-4), 3 / (7**0.5 + 1e-4)]),
        (None, [-2.0, -1.0, 3.0]),
    ],
)
def test_group_advantages_by_hand(scale: Literal["group"] | None, expected: list[float]) -> None:
    found = group_advantages(tensor(REWARDS), 3, scale, alone)
    assert found.tolist() == pytest.approx(expected)


def test_advantages_may_be_scaled_by_the_batch_of_all_processes() -> None:
    """Scores 1, 3 | 10, 12 have the std sqrt(85 / 3), whoever has which."""
    parts = [tensor([1.0, 3.0]), tensor([10.0, 12.0])]
    found = simulate_processes(
        2, lambda rank, all_sum: group_advantages(parts[rank], 2, "batch", all_sum).tolist()
    )
    size = 1 / (math.sqrt(85 / 3) + 1e-4)
    assert found[0] == found[1] == pytest.approx([-size, size])
    together = group_advantages(torch.cat(parts), 2, "batch", alone)
    assert together.tolist() == pytest.approx([*found[0], *found[1]])


@given(SCORES, GROUPS)
def test_group_advantages_equal_a_loop(scores: list[float], responses: int) -> None:
    found = group_advantages(tensor(scores), responses, "group", alone).tolist()
    expected = []
    for start in range(0, len(scores), responses):
        group = scores[start : start + responses]
        mean = sum(group) / responses
        std = math.sqrt(sum((score - mean) ** 2 for score in group) / (responses - 1))
        expected += [(score - mean) / (std + 1e-4) for score in group]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("responses", [2, 3, 6, 7])
@pytest.mark.parametrize("reward", [0.1, -1 / 3, 7.3e5, 0.0])
def test_equal_rewards_teach_exactly_nothing(reward: float, responses: int) -> None:
    """Not even rounding, which whitening would blow up to unit size."""
    rewards = torch.full((responses,), reward)
    zeros = [0.0] * responses
    assert group_mean(rewards, responses).tolist() == rewards.tolist()
    assert leave_one_out(rewards, responses).tolist() == zeros
    for scale in ("group", "batch", None):
        assert group_advantages(rewards, responses, scale, alone).tolist() == zeros


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_a_std_takes_the_scale_of_scores_away(scale: Literal["group", "batch"]) -> None:
    """So a score that is normalised first learns the same, but for the 1e-4."""
    raw = tensor([*REWARDS, -1.0, 0.5, 0.25])
    one, other = (group_advantages(each, 3, scale, alone) for each in (raw, 5 * raw + 7))
    torch.testing.assert_close(one, other, rtol=2e-4, atol=0)


@pytest.mark.parametrize("responses", [0, 1])
def test_a_group_of_one_is_refused(responses: int) -> None:
    message = f"a group of {responses}: there is no other response to compare with"
    with pytest.raises(ValueError, match=message):
        leave_one_out(tensor(REWARDS), responses)
    with pytest.raises(ValueError, match=message):
        group_advantages(tensor(REWARDS), responses, "group", alone)


def test_rows_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="3 responses are not in groups of 2"):
        leave_one_out(tensor(REWARDS), 2)


def test_reward_to_go_by_hand() -> None:
    rewards = tensor([[1.0, -2.0, 5.0, 9.0], [0.5, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    expected = [[4.0, 3.0, 5.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    assert reward_to_go(rewards, mask).tolist() == expected


# -- losses of whole responses ------------------------------------------------------------------

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
# what stands outside the mask must not matter
OLD = tensor([[-1.0, -2.0, -0.5], [-1.5, 9.0, 9.0], [-0.2, -0.4, 9.0]])
NEW = tensor([[-0.8, -2.1, -0.3], [-1.9, 5.0, -5.0], [-0.1, -0.3, 7.0]])
ADVANTAGES = tensor([2.0, -1.0, -0.5])


@pytest.mark.parametrize(
    ("epsilon", "losses"),
    [
        # log ratios 0.3, -0.4 and 0.2
        (None, [-2 * math.exp(0.3), math.exp(-0.4), 0.5 * math.exp(0.2)]),
        # the first is held back by the clip, the second by its lower end; the third may be worse
        (0.2, [-2 * 1.2, 0.8, 0.5 * math.exp(0.2)]),
    ],
)
def test_the_surrogate_of_a_response_by_hand(epsilon: float | None, losses: list[float]) -> None:
    found, ratio = sequence_surrogate(NEW, OLD, ADVANTAGES, MASK, epsilon)
    assert ratio.tolist() == pytest.approx([math.exp(0.3), math.exp(-0.4), math.exp(0.2)])
    assert found.tolist() == pytest.approx(losses)


@pytest.mark.parametrize("epsilon", [None, 0.2])
@given(seed=SEEDS)
def test_its_gradient_equals_finite_differences(epsilon: float | None, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    old, new = (-2 * torch.rand(3, 3, generator=random, dtype=torch.float64) for _ in range(2))
    advantages = torch.randn(3, generator=random, dtype=torch.float64)

    def total(logprobs: Tensor) -> Tensor:
        return sequence_surrogate(logprobs, old, advantages, MASK, epsilon)[0].sum()

    free = new.clone().requires_grad_()
    total(free).backward()
    assert free.grad is not None
    size = 1e-6
    for row in range(3):
        for column in range(3):
            step = torch.zeros_like(new)
            step[row, column] = size
            slope = float(total(new + step) - total(new - step)) / (2 * size)
            assert float(free.grad[row, column]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_before_the_first_step_it_is_reinforce() -> None:
    """rho is 1, and the gradient -A grad log pi(y|x) whatever the clip."""
    free = OLD.clone().requires_grad_()
    losses, ratio = sequence_surrogate(free, OLD, ADVANTAGES, MASK, 0.2)
    losses.sum().backward()
    assert ratio.tolist() == [1.0, 1.0, 1.0]
    assert free.grad is not None
    assert torch.equal(free.grad, -ADVANTAGES[:, None] * MASK)


def test_weights_of_tokens_by_hand() -> None:
    # lengths 3, 1 and 2
    weights = response_weights(MASK, mean_length=2.0)
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2, 1, 1])


@given(seed=SEEDS, size=st.sampled_from([1, 2, 3, 6]))
def test_a_weighted_mean_over_tokens_is_one_over_responses(seed: int, size: int) -> None:
    """However the responses are cut into micro-batches."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (6,), generator=random)
    mask = torch.arange(8)[None] < lengths[:, None]
    values = torch.randn(6, 8, generator=random, dtype=torch.float64)
    tokens = float(mask.sum())
    total = 0.0
    for rows in torch.arange(6).split(size):
        part = mask[rows]
        total += float((response_weights(part, tokens / 6) * values[rows][part]).sum())
    means = [float(row[keep].mean()) for row, keep in zip(values, mask, strict=True)]
    assert total / tokens == pytest.approx(sum(means) / 6, abs=1e-6)
