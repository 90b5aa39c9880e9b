import pytest

from rlhf.evaluation.measures import edges_over, histogram, longer_win_rate


def test_longer_win_rate_leaves_out_ties_and_equal_lengths() -> None:
    outcomes = ["win", "win", "lose", "tie", "win"]
    # decided: longer wins, shorter wins, longer (baseline) wins; a tie and an equal length do not count
    assert longer_win_rate(outcomes, [9, 2, 2, 9, 5], [3, 8, 4, 1, 5]) == pytest.approx(2 / 3)
    assert longer_win_rate(["tie"], [3], [4]) is None


def test_histogram_counts_everything_even_a_single_value() -> None:
    values = [0.0, 0.5, 1.0, 1.0]
    assert sum(histogram(values, edges_over(values))) == 4
    assert sum(histogram([2.0, 2.0], edges_over([2.0, 2.0], bins=3))) == 2
