import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.intervals import bootstrap_interval
from rlhf.evaluation.length import (
    LengthControlledRate,
    fit_logistic,
    length_controlled,
    longer_win_rate,
)


def test_longer_win_rate_leaves_out_ties_and_equal_lengths() -> None:
    outcomes = ["win", "win", "lose", "tie", "win"]
    # decided: longer wins, shorter wins, longer (baseline) wins; a tie and an equal length do not count
    assert longer_win_rate(outcomes, [9, 2, 2, 9, 5], [3, 8, 4, 1, 5]) == pytest.approx(2 / 3)
    assert longer_win_rate(["tie"], [3], [4]) is None


def test_coefficients_are_those_of_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    features = np.stack([np.ones(200), random.normal(size=200)], axis=1)
    points = (random.random(200) < 1 / (1 + np.exp(-(0.4 + 1.3 * features[:, 1])))).astype(
        np.float64
    )
    peer = linear.LogisticRegression(C=100.0, tol=1e-10, max_iter=1000).fit(
        features[:, 1:], points
    )  # the intercept is free
    expected = [peer.intercept_[0], peer.coef_[0, 0]]
    np.testing.assert_allclose(
        fit_logistic(features, points, np.ones((1, 200)))[0], expected, atol=1e-4
    )


def test_every_resample_of_a_separable_sample_reaches_its_top() -> None:
    """There Newton's steps overshoot: the slopes of the penalised likelihood must vanish all the same."""
    random = np.random.default_rng(400_000)
    difference = random.normal(0, 25, 400).round()
    points = (difference > 6).astype(np.float64)
    features = np.stack([np.ones(400), np.tanh(difference / difference.std())], axis=1)
    weights = random.multinomial(400, np.full(400, 1 / 400), size=500).astype(np.float64)
    found = fit_logistic(features, points, weights)
    slopes = (weights * (points - 1 / (1 + np.exp(-found @ features.T)))) @ features
    np.testing.assert_allclose(slopes - found * [0.0, 0.01], 0.0, atol=1e-6)


def test_a_win_by_length_alone_is_no_win() -> None:
    random = np.random.default_rng(1)
    longer = random.random(400) < 0.8
    mine = np.where(longer, 60, 20) + random.integers(-9, 10, 400)
    points = (random.random(400) < np.where(longer, 0.9, 0.1)).astype(
        np.float64
    )  # the longer one wins nine times in ten
    assert points.mean() > 0.7
    found = length_controlled(points, mine.tolist(), [40] * 400, 1)
    assert found is not None and found.low < 0.5 < found.high and found.high - found.low < 0.25


def test_without_a_difference_of_length_it_is_the_mean() -> None:
    points = np.array([1.0] * 30 + [0.5] * 20 + [0.0] * 10)
    found = length_controlled(points, [7] * 60, [7] * 60, 1)
    assert found is not None and found.win_rate == pytest.approx(points.mean(), abs=1e-9)
    assert found.low < found.win_rate < found.high


@pytest.mark.parametrize(("not_shorter", "told"), [(0, False), (6, False), (7, False), (8, True)])
@pytest.mark.parametrize("at", [0, 3])
def test_where_lengths_hardly_overlap_it_is_not_told(not_shorter: int, told: bool, at: int) -> None:
    """141 prompts; 8 are the first to be a twentieth."""
    random = np.random.default_rng(0)
    mine = np.concatenate(
        [100 - random.integers(45, 65, 141 - not_shorter), np.full(not_shorter, 100 + at)]
    )
    points = (random.random(141) < 0.76).astype(np.float64)
    assert (length_controlled(points, mine.tolist(), [100] * 141, 1) is not None) is told
    assert (length_controlled(points, [100] * 141, mine.tolist(), 1) is not None) is told


@pytest.mark.parametrize("point", [0.0, 0.5, 1.0])
def test_points_all_alike_have_the_interval_of_the_plain_rate(point: float) -> None:
    found = length_controlled(np.full(20, point), list(range(90, 110)), [100] * 20, 1)
    low, high = bootstrap_interval(np.full(20, point), 1)
    assert found == LengthControlledRate(point, low, high) and high - low > 0.15


def test_resamples_without_a_loss_stay_finite() -> None:
    """One loss in twenty: more than a third of the resamples miss it, and so must the upper end."""
    found = length_controlled(np.array([0.0] + [1.0] * 19), list(range(90, 110)), [100] * 20, 1)
    assert found is not None and found.high == 1.0 and 0.6 < found.low < found.win_rate < 1.0


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 99), st.integers(1, 99)),
        min_size=1,
        max_size=12,
    )
)
def test_seen_from_the_other_side_it_is_the_rest(rows: list[tuple[float, int, int]]) -> None:
    points = np.array([row[0] for row in rows])
    mine, theirs = [row[1] for row in rows], [row[2] for row in rows]
    found, mirrored = (
        length_controlled(points, mine, theirs, 3),
        length_controlled(1 - points, theirs, mine, 3),
    )
    if found is None or mirrored is None:
        assert found is mirrored
        return
    assert found.win_rate == pytest.approx(1 - mirrored.win_rate, abs=1e-6)
    assert 0 <= found.low <= found.high <= 1
