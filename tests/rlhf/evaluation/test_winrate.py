import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.evaluation.judges import Outcome
from rlhf.evaluation.winrate import bootstrap_interval, points, win_rate, win_rates_by_kind

MIRROR: dict[Outcome, Outcome] = {"win": "lose", "tie": "tie", "lose": "win"}
OUTCOMES = st.lists(st.sampled_from(["win", "tie", "lose"]), min_size=1, max_size=40)


def test_shares_by_hand() -> None:
    found = win_rate(["win", "win", "tie", "lose"], 1)
    assert (found.win, found.tie, found.lose, found.win_rate, found.count) == (0.5, 0.25, 0.25, 0.625, 4)
    assert 0 < found.win_rate_low < 0.625 < found.win_rate_high <= 1


def test_points() -> None:
    assert points(["win", "tie", "lose"]).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(("outcome", "value"), [("win", 1.0), ("tie", 0.5), ("lose", 0.0)])
def test_a_single_outcome_has_a_point_interval(outcome: Outcome, value: float) -> None:
    found = win_rate([outcome], 1)
    assert (found.win_rate, found.win_rate_low, found.win_rate_high) == (value, value, value)


def test_all_ties_have_a_point_interval() -> None:
    found = win_rate(["tie"] * 50, 1)
    assert (found.win_rate_low, found.win_rate_high, found.tie) == (0.5, 0.5, 1.0)


def test_interval_agrees_with_the_normal_one() -> None:
    values = np.array([1.0] * 240 + [0.0] * 160)
    low, high = bootstrap_interval(values, seed=3)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 400)
    assert low == pytest.approx(0.6 - half, abs=0.004)
    assert high == pytest.approx(0.6 + half, abs=0.004)


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 30)
    whole = bootstrap_interval(values, seed=5, resamples=500)
    monkeypatch.setattr("rlhf.evaluation.winrate._CELLS", 30 * 7)
    assert bootstrap_interval(values, seed=5, resamples=500) == whole


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.array([]), seed=1)


@settings(max_examples=25, deadline=None)
@given(OUTCOMES)
def test_swapping_sides_mirrors_everything(outcomes: list[Outcome]) -> None:
    here, there = win_rate(outcomes, 1, "x"), win_rate([MIRROR[outcome] for outcome in outcomes], 1, "x")
    assert (here.win, here.tie, here.lose) == (there.lose, there.tie, there.win)
    assert here.win_rate == pytest.approx(1 - there.win_rate)
    assert here.win_rate_low == pytest.approx(1 - there.win_rate_high)
    assert here.win_rate_high == pytest.approx(1 - there.win_rate_low)


@settings(max_examples=25, deadline=None)
@given(OUTCOMES)
def test_shares_sum_to_one_and_the_interval_holds_the_rate(outcomes: list[Outcome]) -> None:
    found = win_rate(outcomes, 1)
    assert found.win + found.tie + found.lose == pytest.approx(1)
    assert 0 <= found.win_rate_low <= found.win_rate + 1e-12
    assert found.win_rate - 1e-12 <= found.win_rate_high <= 1


def test_kinds_apart_and_together() -> None:
    found = win_rates_by_kind(["win", "lose", "tie"], ["helpful", "harmless", "helpful"], 1)
    assert list(found) == ["all", "harmless", "helpful"]
    assert (found["helpful"].win_rate, found["harmless"].win_rate, found["all"].count) == (0.75, 0.0, 3)


def test_names_give_other_draws_and_the_same_name_the_same() -> None:
    outcomes: list[Outcome] = ["win"] * 9 + ["lose"] * 14
    assert win_rate(outcomes, 1, "a") == win_rate(outcomes, 1, "a")
    draws = {(found.win_rate_low, found.win_rate_high) for found in (win_rate(outcomes, 1, n) for n in range(20))}
    assert len(draws) > 1
