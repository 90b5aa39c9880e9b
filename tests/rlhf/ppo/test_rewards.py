import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.moments import Moments
from rlhf.ppo.rewards import clip, normalise, scale, token_rewards


def test_normalise_and_clip_by_hand() -> None:
    history = Moments(count=3, mean=2.0, squares=8.0)  # std sqrt(8 / 2) = 2
    scores = normalise(torch.tensor([2.0, 4.0, -6.0]), history)
    assert scores.tolist() == [0.0, 1.0, -4.0]
    assert clip(scores, 0.8).tolist() == pytest.approx([0.0, 0.8, -0.8])
    assert clip(scores, None) is scores


def test_scaling_keeps_the_mean() -> None:
    history = Moments(count=3, mean=2.0, squares=8.0)  # std 2
    assert scale(torch.tensor([2.0, 4.0, -6.0]), history).tolist() == [1.0, 2.0, -3.0]


def test_token_rewards_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    kl = torch.tensor([[0.5, -0.2, 0.1], [0.4, 9.0, 9.0]])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), kl, mask, 0.1)
    # the score comes on top of the penalty of the last token, which may be the end-of-turn token; padding gets nothing
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.02, 1.99], [-1.04, 0.0, 0.0]]))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 1000))
def test_token_rewards_equal_a_loop_whatever_the_padding(
    lengths: list[int], padding: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    width = max(lengths) + padding
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    kl = torch.randn(mask.shape, generator=random)
    scores = torch.randn(len(lengths), generator=random)
    rewards = token_rewards(scores, kl, mask, 0.3)
    for row, length in enumerate(lengths):
        expected = [-0.3 * float(kl[row, step]) for step in range(length)] + [0.0] * (
            width - length
        )
        expected[length - 1] += float(scores[row])
        assert rewards[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_inputs_stay_as_they_were() -> None:
    kl, scores = torch.ones(1, 2), torch.ones(1)
    token_rewards(scores, kl, torch.tensor([[True, True]]), 0.1)
    assert kl.tolist() == [[1.0, 1.0]] and scores.tolist() == [1.0]
