import math
from collections.abc import Callable

import pytest
import torch
from given import alone
from hypothesis import given
from hypothesis import strategies as st
from tiny import simulate_processes
from torch import Tensor

from rlhf.ppo.advantages import gae, whiten

SEEDS = st.integers(0, 10_000)
FACTORS = st.floats(0, 1)


def responses(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask of up to four responses of up to seven tokens.

    There are numbers in the padding too.
    """
    random = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 5, (1,), generator=random))
    lengths = torch.randint(1, 8, (count,), generator=random)
    shape = (len(lengths), int(lengths.max()))
    mask = torch.arange(shape[1])[None] < lengths[:, None]
    rewards, values = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
    return rewards, values, mask


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 9 as it is printed: a sum over all later TD errors, for each token of one response."""
    count = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(count)]
    advantages = []
    for t in range(count):
        terms = [(gamma * lam) ** (k - t) * deltas[k] for k in range(t, count)]
        advantages.append(sum(terms))
    return advantages


def test_by_hand() -> None:
    # deltas, from the last: 3 - 0.3 = 2.7; 2 + 0.9*0.3 - 0.4 = 1.87; 1 + 0.9*0.4 - 0.5 = 0.86;
    # gamma * lambda = 0.72
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 0.4, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    torch.testing.assert_close(advantages, torch.tensor([[3.60608, 3.814, 2.7]]))
    torch.testing.assert_close(returns, torch.tensor([[4.10608, 4.214, 3.0]]))


@given(SEEDS, FACTORS, FACTORS)
def test_equals_the_printed_sum_for_every_token(seed: int, gamma: float, lam: float) -> None:
    rewards, values, mask = responses(seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(len(mask)):
        inside = mask[row]
        row_rewards, row_values = rewards[row, inside].tolist(), values[row, inside].tolist()
        expected = slow_gae(row_rewards, row_values, gamma, lam)
        assert advantages[row, inside].tolist() == pytest.approx(expected, abs=1e-12)
        sums = [a + v for a, v in zip(expected, row_values, strict=True)]
        assert returns[row, inside].tolist() == pytest.approx(sums, abs=1e-12)
    assert not advantages[~mask].any() and not returns[~mask].any()


@given(SEEDS, FACTORS)
def test_lambda_zero_is_the_td_error(seed: int, gamma: float) -> None:
    rewards, values, mask = responses(seed)
    advantages, _ = gae(rewards, values, mask, gamma, 0.0)
    inside = values * mask
    following = torch.cat([inside[:, 1:], torch.zeros(len(mask), 1)], dim=1)
    torch.testing.assert_close(advantages, (rewards + gamma * following - values) * mask)


@given(SEEDS)
def test_lambda_one_is_monte_carlo(seed: int) -> None:
    rewards, values, mask = responses(seed)
    _, returns = gae(rewards, values, mask, 1.0, 1.0)
    # no trace of the values is left
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, to_go)


@given(SEEDS, FACTORS, FACTORS, st.integers(1, 4))
def test_padding_on_the_right_changes_nothing(
    seed: int, gamma: float, lam: float, padding: int
) -> None:
    rewards, values, mask = responses(seed)
    width = mask.shape[1]
    garbage = torch.full((len(mask), padding), 7.0, dtype=torch.float64)
    outside = torch.zeros_like(garbage, dtype=torch.bool)
    wide_rewards, wide_values, wide_mask = (
        torch.cat([left, right], dim=1)
        for left, right in ((rewards, garbage), (values, garbage), (mask, outside))
    )
    narrow = gae(rewards, values, mask, gamma, lam)
    wide = gae(wide_rewards, wide_values, wide_mask, gamma, lam)
    for expected, padded in zip(narrow, wide, strict=True):
        assert torch.equal(padded[:, :width], expected)
        assert not padded[:, width:].any()


def test_whitening_by_hand() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([[1.0, 2.0], [6.0, 99.0]], dtype=torch.float64)
    found = whiten(advantages, mask, alone)
    # mean 3, variance 14 / 2
    expected = [[-2 / math.sqrt(7), -1 / math.sqrt(7)], [3 / math.sqrt(7), 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(SEEDS)
def test_whitened_advantages_have_mean_0_and_std_1_over_the_response_tokens(seed: int) -> None:
    advantages, _, mask = responses(seed)
    found = whiten(advantages, mask, alone)
    inside = found[mask]
    assert not found[~mask].any()
    assert float(inside.mean()) == pytest.approx(0.0, abs=1e-9)
    if len(inside) > 1:
        assert float(inside.std()) == pytest.approx(1.0, abs=1e-9)
        assert torch.equal(inside.argsort(), advantages[mask].argsort())


def test_advantages_without_spread_are_only_centred() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert whiten(torch.tensor([[4.0, 4.0]]), mask, alone).tolist() == [[0.0, 0.0]]


def test_processes_whiten_their_parts_as_one_would_the_whole() -> None:
    random = torch.Generator().manual_seed(5)
    advantages = torch.randn((4, 6), generator=random, dtype=torch.float64)
    mask = torch.arange(6)[None] < torch.tensor([[6], [1], [3], [4]])

    def work(rank: int, all_sum: Callable[[Tensor], Tensor]) -> Tensor:
        rows = slice(2 * rank, 2 * rank + 2)
        return whiten(advantages[rows], mask[rows], all_sum)

    parts = simulate_processes(2, work)
    torch.testing.assert_close(torch.cat(parts), whiten(advantages, mask, alone))
