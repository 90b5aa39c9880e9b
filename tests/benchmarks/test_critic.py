"""What the benchmark of critics computes, on numbers that are known."""

import pytest
import torch

from tests.benchmarks.critic import Answer, explained_variance, flat, ridge


def answers(count: int, *, told: bool) -> list[Answer]:
    """Answers of three tokens whose score is that of a linear function of each state, or has nothing to do with it."""
    random = torch.Generator().manual_seed(count)
    found = []
    for _ in range(count):
        state, other = torch.randn(2, 4, generator=random, dtype=torch.double)
        score = float((state if told else other) @ torch.tensor([1.0, -2.0, 0.5, 0.0]).double()) + 3
        found.append(Answer(state.repeat(3, 1), torch.zeros(3).double(), score))
    return found


def test_every_token_has_the_score_of_its_answer() -> None:
    states, scores = flat(answers(2, told=True))
    assert states.shape == (6, 4)
    assert scores[0] == scores[2] != scores[3]


def test_explained_variance_by_hand() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(scores, scores) == 1
    assert explained_variance(torch.full((4,), 9.0), scores) == 0
    # variances 14/3 and 2/3
    values = torch.tensor([0.0, 3.0, 3.0, 6.0])
    assert explained_variance(values, scores) == pytest.approx(1 - 2 / 14)


def test_ridge_finds_what_is_linear_and_no_more() -> None:
    assert ridge(answers(60, told=True), answers(40, told=True), 1e-6) == pytest.approx(1)
    assert ridge(answers(60, told=False), answers(40, told=False), 1e-6) < 0.05
