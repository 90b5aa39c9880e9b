import numpy as np
import pytest

from rlhf.evaluation.intervals import RESAMPLES, bootstrap_interval, wilson_interval


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.array([]), seed=1)


def test_wilson_by_hand() -> None:
    """One of one: 1 / (1 + 1.96^2) to 1; none of 20: 0 to 1.96^2 / (20 + 1.96^2)."""
    assert wilson_interval(1.0, 1) == (pytest.approx(0.2065, abs=2e-4), pytest.approx(1))
    low, high = wilson_interval(0.0, 20)
    assert (low, high) == (0.0, pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4))


def test_wilson_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for successes, count in ((0, 7), (3, 10), (61, 141), (141, 141)):
        peer = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
        assert wilson_interval(successes / count, count) == pytest.approx(tuple(peer), abs=1e-6)


def test_values_that_are_all_alike_have_wilsons_interval() -> None:
    assert bootstrap_interval(np.full(12, 0.5), seed=1) == wilson_interval(0.5, 12)


def test_the_draws_do_not_depend_on_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.array([0.0, 0.5, 1.0, 1.0, 0.0, 1.0, 0.5])
    whole = bootstrap_interval(values, seed=3)
    random = np.random.default_rng(3)
    means = values[random.integers(0, 7, size=(RESAMPLES, 7))].mean(axis=1)
    assert whole == tuple(np.percentile(means, [2.5, 97.5]))
    monkeypatch.setattr("rlhf.evaluation.intervals.DRAWS_AT_ONCE", 7 * 999)
    assert bootstrap_interval(values, seed=3) == whole
