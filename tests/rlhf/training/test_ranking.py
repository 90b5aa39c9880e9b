import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.training.ranking import (
    PairScores,
    calibration,
    calibration_error,
    details,
    summary,
    wilson,
)


def table(kinds: list[str], longer: list[int] | None = None) -> pd.DataFrame:
    count = len(kinds)
    return pd.DataFrame(
        {
            "id": [f"p{n}" for n in range(count)],
            "kind": kinds,
            "messages": ["[]"] * count,
            "chosen": ["c" * (5 + extra) for extra in longer or [0] * count],
            "rejected": ["r" * 5] * count,
            "unseen_opening": [n % 2 == 0 for n in range(count)],
        }
    )


def pairs(margins: list[float]) -> PairScores:
    return PairScores([margin + 1 for margin in margins], [1.0] * len(margins))


def test_wilson_by_hand() -> None:
    # 8 of 10 with z = 1.96: centre (0.8 + 0.19207) / 1.38415,
    # half 1.95996 * sqrt(0.016 + 0.0096036) / 1.38415
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-5)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share_and_narrows(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    low, high = wilson(right, count)
    assert 0 <= low <= right / count + 1e-9 and right / count - 1e-9 <= high <= 1
    wide = wilson(right * 4, count * 4)
    assert wide[1] - wide[0] < high - low


def test_a_calibrated_model_has_no_calibration_error() -> None:
    """With margin ln(p / (1 - p)) the favourite is right in just a share p of the pairs."""
    margins: list[float] = []
    for right, count in ((18, 25), (14, 25), (46, 50)):
        margin = math.log(right / (count - right))
        margins += [margin] * right + [-margin] * (count - right)
    assert calibration_error(margins) == pytest.approx(0.0, abs=1e-12)
    rows = calibration(margins)
    assert [row["count"] for row in rows] == [25, 25, 50]
    assert [row["observed"] for row in rows] == pytest.approx([0.56, 0.72, 0.92])
    assert [row["low"] for row in rows] == pytest.approx([0.55, 0.70, 0.90])
    assert all(row["low"] <= row["predicted"] <= row["high"] for row in rows)


def test_calibration_error_by_hand() -> None:
    # sure to 0.9 of four, right in two: off by 0.4; sure to 0.6 of one, right: off by 0.4
    sure, unsure = math.log(9), math.log(1.5)
    assert calibration_error([sure, sure, -sure, -sure, unsure]) == pytest.approx(0.4)
    assert calibration_error([]) == 0.0


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60))
def test_every_pair_is_in_one_bin(margins: list[float]) -> None:
    rows = calibration(margins)
    assert sum(row["count"] for row in rows) == len(margins)
    assert 0 <= calibration_error(margins) <= 1


def test_summary_by_hand() -> None:
    kinds = ["helpful", "helpful", "harmless", "harmless"]
    found = summary(table(kinds, longer=[1, -1, 2, 0]), pairs([1.0, -0.5, 0.0, 2.0]))
    margins = (1.0, -0.5, 0.0, 2.0)
    expected = {
        # a tie is not right
        "accuracy": 0.5,
        "accuracy_helpful": 0.5,
        "accuracy_harmless": 0.5,
        "accuracy_unseen_openings": 0.5,
        "longer_wins_accuracy": 2.5 / 4,
        "margin_mean": 0.625,
        "loss": sum(math.log(1 + math.exp(-margin)) for margin in margins) / 4,
        "score_mean": 1.3125,
        "pairs_tested": 4,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx(wilson(2, 4))


def test_a_kind_without_pairs_has_no_accuracy() -> None:
    found = summary(table(["helpful"] * 3), pairs([1.0, 1.0, -1.0]))
    assert found["accuracy_harmless"] is None and found["longer_wins_accuracy"] == 0.5
    assert found["accuracy_helpful"] == pytest.approx(2 / 3)


def test_huge_margins_give_no_warning_and_no_infinity() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = summary(table(["helpful"] * 2), pairs([900.0, -900.0]))
    assert found["loss"] == pytest.approx(450.0)


def test_details_list_the_most_wrong_pairs_in_order() -> None:
    margins = [0.5, -0.1, -3.0, 1.0, -0.7] + [-(0.01 * n) for n in range(1, 13)]
    kinds = ["helpful" if n % 2 else "harmless" for n in range(len(margins))]
    found = details(table(kinds), pairs(margins))
    wrong = found["most_wrong"]
    assert [row["margin"] for row in wrong[:3]] == pytest.approx([-3.0, -0.7, -0.12])
    assert len(wrong) == 10 and wrong[0]["id"] == "p2"
    assert wrong[0]["score_rejected"] - wrong[0]["score_chosen"] == pytest.approx(3.0)
    histogram = found["margin_histogram"]
    for kind in ("helpful", "harmless"):
        # no margin falls outside
        assert sum(histogram[kind]) == kinds.count(kind)
    assert histogram["edges"][0] == -histogram["edges"][-1] == -3.0


def test_right_pairs_are_never_among_the_most_wrong() -> None:
    assert details(table(["helpful"] * 2), pairs([0.0, 2.0]))["most_wrong"] == []
    # no spread at all
    details(table(["helpful"]), pairs([0.0]))


def test_mean_std_and_shift() -> None:
    scores = PairScores([3.0, 5.0], [1.0, 3.0])
    assert scores.mean_and_std == pytest.approx((3.0, math.sqrt(8 / 3)))
    assert scores.shifted(-3.0) == PairScores([0.0, 2.0], [-2.0, 0.0])
    assert PairScores([1.0], [1.0]).mean_and_std == (1.0, 1.0)
