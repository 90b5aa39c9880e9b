import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.moments import Moments
from rlhf.ppo.rewards import clip, final_score, kl_penalty, normalise, scale

# std sqrt(8 / 2) = 2
HISTORY = Moments(count=3, mean=2.0, squares=8.0)
SCORES = torch.tensor([2.0, 4.0, -6.0])

# -- reparameterisation -------------------------------------------------------------------------


def test_normalise_and_clip_by_hand() -> None:
    scores = normalise(SCORES, HISTORY)
    assert scores.tolist() == [0.0, 1.0, -4.0]
    assert clip(scores, 0.8).tolist() == pytest.approx([0.0, 0.8, -0.8])
    assert clip(scores, None) is scores


def test_scaling_keeps_the_mean() -> None:
    assert scale(SCORES, HISTORY).tolist() == [1.0, 2.0, -3.0]


# -- token rewards ------------------------------------------------------------------------------

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_the_score_is_paid_at_the_last_token() -> None:
    """Which may be the end-of-turn token; padding gets nothing."""
    rewards = final_score(torch.tensor([2.0, -1.0]), MASK)
    assert rewards.tolist() == [[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0]]


def test_every_token_pays_for_its_divergence() -> None:
    kl = torch.tensor([[0.5, -0.2, 0.1], [0.4, 9.0, 9.0]])
    penalty = kl_penalty(kl, MASK, 0.1)
    torch.testing.assert_close(penalty, torch.tensor([[-0.05, 0.02, -0.01], [-0.04, 0.0, 0.0]]))


def test_both_together_by_hand() -> None:
    """The score comes on top of the penalty of the last token."""
    kl = torch.tensor([[0.5, -0.2, 0.1], [0.4, 9.0, 9.0]])
    rewards = final_score(torch.tensor([2.0, -1.0]), MASK) + kl_penalty(kl, MASK, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.02, 1.99], [-1.04, 0.0, 0.0]]))


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_token_rewards_equal_a_loop_whatever_the_padding(
    lengths: list[int], padding: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    width = max(lengths) + padding
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    kl = torch.randn(mask.shape, generator=random)
    scores = torch.randn(len(lengths), generator=random)
    rewards = final_score(scores, mask) + kl_penalty(kl, mask, 0.3)
    for row, length in enumerate(lengths):
        expected = [-0.3 * float(kl[row, step]) for step in range(length)]
        expected[-1] += float(scores[row])
        expected += [0.0] * (width - length)
        assert rewards[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_inputs_stay_as_they_were() -> None:
    kl, scores = torch.ones(1, 2), torch.ones(1)
    mask = torch.tensor([[True, True]])
    final_score(scores, mask)
    kl_penalty(kl, mask, 0.1)
    assert kl.tolist() == [[1.0, 1.0]] and scores.tolist() == [1.0]


def test_precision_is_that_of_the_numbers() -> None:
    scores, kl = torch.ones(1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    mask = torch.tensor([[True, True]])
    assert final_score(scores, mask).dtype == kl_penalty(kl, mask, 0.1).dtype == torch.float64
