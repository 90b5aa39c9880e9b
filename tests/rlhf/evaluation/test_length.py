import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.length import length_controlled, logistic


def test_coefficients_are_those_of_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    features = np.stack([np.ones(200), random.normal(size=200)], axis=1)
    points = (random.random(200) < 1 / (1 + np.exp(-(0.4 + 1.3 * features[:, 1])))).astype(np.float64)
    peer = linear.LogisticRegression(C=100.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(features, points)
    np.testing.assert_allclose(logistic(features, points, np.ones((1, 200)))[0], peer.coef_[0], atol=1e-4)


def test_a_win_by_length_alone_is_no_win() -> None:
    random = np.random.default_rng(1)
    longer = random.random(400) < 0.8
    mine = np.where(longer, 60, 20) + random.integers(-9, 10, 400)
    points = (random.random(400) < np.where(longer, 0.9, 0.1)).astype(
        np.float64
    )  # the longer one wins nine times in ten
    assert points.mean() > 0.7
    found = length_controlled(points, mine.tolist(), [40] * 400, 1)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.25


def test_without_a_difference_of_length_it_is_the_mean() -> None:
    points = np.array([1.0] * 30 + [0.5] * 20 + [0.0] * 10)
    found = length_controlled(points, [7] * 60, [7] * 60, 1)
    assert found.win_rate == pytest.approx(points.mean(), abs=1e-3)
    assert found.low < found.win_rate < found.high


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=12
    )
)
def test_seen_from_the_other_side_it_is_the_rest(rows: list[tuple[float, int, int]]) -> None:
    points = np.array([row[0] for row in rows])
    mine, theirs = [row[1] for row in rows], [row[2] for row in rows]
    found, mirrored = length_controlled(points, mine, theirs, 3), length_controlled(1 - points, theirs, mine, 3)
    assert found.win_rate == pytest.approx(1 - mirrored.win_rate, abs=1e-6)
    assert 0 <= found.low <= found.high <= 1
