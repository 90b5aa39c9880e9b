import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.evaluation.types import Outcome
from rlhf.evaluation.win_rate import (
    detectable_difference,
    points,
    prompts_needed,
    win_rate,
    win_rates_by_kind,
)

MIRROR: dict[Outcome, Outcome] = {"win": "lose", "tie": "tie", "lose": "win"}
OUTCOMES = st.lists(st.sampled_from(["win", "tie", "lose"]), min_size=1, max_size=40)


def test_shares_by_hand() -> None:
    found = win_rate(["win", "win", "tie", "lose"], 1)
    assert (found.win, found.tie, found.lose, found.win_rate, found.count) == (
        0.5,
        0.25,
        0.25,
        0.625,
        4,
    )
    assert 0 < found.win_rate_low < 0.625 < found.win_rate_high <= 1


def test_points() -> None:
    assert points(["win", "tie", "lose"]).tolist() == [1.0, 0.5, 0.0]


@settings(max_examples=25, deadline=None)
@given(OUTCOMES)
def test_swapping_sides_mirrors_everything(outcomes: list[Outcome]) -> None:
    here, there = (
        win_rate(outcomes, 1, "x"),
        win_rate([MIRROR[outcome] for outcome in outcomes], 1, "x"),
    )
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
    assert (found["helpful"].win_rate, found["harmless"].win_rate, found["all"].count) == (
        0.75,
        0.0,
        3,
    )


def test_names_give_other_draws_and_the_same_name_the_same() -> None:
    outcomes: list[Outcome] = ["win"] * 9 + ["lose"] * 14
    assert win_rate(outcomes, 1, "a") == win_rate(outcomes, 1, "a")
    draws = {
        (found.win_rate_low, found.win_rate_high)
        for found in (win_rate(outcomes, 1, n) for n in range(20))
    }
    assert len(draws) > 1


def test_outcomes_that_are_all_alike_do_not_make_a_sure_thing() -> None:
    """Wilson's interval by hand: one win of one gives 1 / (1 + 1.96^2) = 0.2066 to 1."""
    one = win_rate(["win"], 1)
    assert (one.win_rate, one.win_rate_low, one.win_rate_high) == (
        1.0,
        pytest.approx(0.2065, abs=2e-4),
        pytest.approx(1),
    )
    ties = win_rate(["tie"] * 50, 1)
    assert ties.win_rate_low < 0.4 and ties.win_rate_high > 0.6
    lost = win_rate(["lose"] * 20, 1)
    assert lost.win_rate_low == pytest.approx(0) and lost.win_rate_high == pytest.approx(
        1.96**2 / (20 + 1.96**2), abs=1e-4
    )
    assert (
        prompts_needed(points(["win"] * 20), 0.05) is None
        and detectable_difference(points(["tie"])) is None
    )
