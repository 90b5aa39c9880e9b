"""RTO's token rewards by hand, and what they make of the advantages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.advantages import gae
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.rewards import final_score, kl_penalty
from rlhf.ppo.rto import dpo_reward, return_correction

MASK = torch.ones(1, 3, dtype=torch.bool)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


LOGPROBS, REFERENCE, DPO = row(-0.7, -1.1, -0.2), row(-0.9, -1.0, -0.3), row(-0.4, -1.5, -0.1)
VALUES = row(1.5, 1.7, 1.9)
SOURCES = {
    "final_score": final_score(torch.tensor([2.0], dtype=torch.float64), MASK),
    "kl_penalty": kl_penalty(kl_estimate(LOGPROBS, REFERENCE), MASK, 0.01),
    "dpo_reward": dpo_reward(DPO, REFERENCE, MASK, 0.05, None),
}


def advantages(rewards: Tensor) -> tuple[list[float], list[float]]:
    found, returns = gae(rewards, VALUES, MASK, gamma=1.0, lam=0.95)
    return found[0].tolist(), returns[0].tolist()


def test_sources_by_hand() -> None:
    assert SOURCES["dpo_reward"][0].tolist() == pytest.approx([0.025, -0.025, 0.010])
    assert SOURCES["kl_penalty"][0].tolist() == pytest.approx([-0.002, 0.001, -0.001])


def test_their_sum_and_its_advantages_by_hand() -> None:
    total = sum(SOURCES.values(), torch.zeros_like(VALUES))
    assert total[0].tolist() == pytest.approx([0.023, -0.024, 2.009])
    assert float(total.sum()) == pytest.approx(2.008)
    found, returns = advantages(total)
    assert found == pytest.approx([0.4885725, 0.27955, 0.109], abs=1e-7)
    assert returns == pytest.approx([1.9885725, 1.97955, 2.009], abs=1e-7)


def test_without_the_dpo_reward_it_is_ppo() -> None:
    found, _ = advantages(SOURCES["final_score"] + SOURCES["kl_penalty"])
    assert found == pytest.approx([0.4782975, 0.29505, 0.099], abs=1e-7)


def test_shaping_alone_by_hand() -> None:
    """The sum is the score and the KL terms again; the first tokens' rewards stay."""
    correction = return_correction(SOURCES["dpo_reward"], MASK)
    assert correction[0].tolist() == pytest.approx([0.0, 0.0, -0.010])
    total = sum(SOURCES.values(), correction)
    assert total[0].tolist() == pytest.approx([0.023, -0.024, 1.999])
    assert float(total.sum()) == pytest.approx(1.998)
    found, _ = advantages(total)
    assert found == pytest.approx([0.4795475, 0.27005, 0.099], abs=1e-7)


def test_the_clamp_is_of_each_scaled_token() -> None:
    zero = row(0.0, 0.0, 0.0)
    free = dpo_reward(row(1.1, -2.0, 0.2), zero, MASK, 0.05, None)
    clamped = dpo_reward(row(1.1, -2.0, 0.2), zero, MASK, 0.05, 0.05)
    assert free[0].tolist() == pytest.approx([0.055, -0.10, 0.01])
    assert clamped[0].tolist() == pytest.approx([0.05, -0.05, 0.01])


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 1000),
    clamp=st.one_of(st.none(), st.floats(0.01, 0.5)),
)
def test_they_equal_a_loop_whatever_the_padding(
    lengths: list[int], padding: int, seed: int, clamp: float | None
) -> None:
    random = torch.Generator().manual_seed(seed)
    width = max(lengths) + padding
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    dpo, reference = (torch.randn(mask.shape, generator=random) for _ in range(2))
    rewards = dpo_reward(dpo, reference, mask, 0.3, clamp)
    correction = return_correction(rewards, mask)
    for place, length in enumerate(lengths):
        expected = []
        for step in range(length):
            value = 0.3 * (float(dpo[place, step]) - float(reference[place, step]))
            expected.append(value if clamp is None else max(-clamp, min(clamp, value)))
        expected += [0.0] * (width - length)
        assert rewards[place].tolist() == pytest.approx(expected, abs=1e-6)
        assert float((rewards + correction)[place].sum()) == pytest.approx(0.0, abs=1e-5)
        others = [
            value for step, value in enumerate(correction[place].tolist()) if step != length - 1
        ]
        assert others == [0.0] * (width - 1)
