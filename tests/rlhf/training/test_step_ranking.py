"""What a process reward model is measured by, by hand and against loops over pairs."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.training.step_ranking import (
    StepScores,
    auc,
    calibration,
    calibration_error,
    most_wrong,
    ranking_figures,
    step_figures,
)

NAN = math.nan


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def of(probabilities: list[list[float]], labels: list[list[float]]) -> StepScores:
    return StepScores([[logit(p) for p in row] for row in probabilities], labels)


SCORES = of([[0.9, 0.4], [0.8], [0.3, 0.6, 0.7]], [[1.0, 0.0], [0.0], [1.0, NAN, 1.0]])


def test_figures_by_hand() -> None:
    figures = step_figures(SCORES)
    # 0.9 and 0.7 are right of five, 0.4 too; the step without a label is none of them
    assert figures["accuracy"] == pytest.approx(3 / 5)
    losses = [-math.log(0.9), -math.log(0.6), -math.log(0.2), -math.log(0.3), -math.log(0.7)]
    assert figures["loss"] == pytest.approx(sum(losses) / 5)
    # of 0.9, 0.3, 0.7 against 0.4, 0.8: above in 2 + 0 + 1 of six
    assert figures["auc"] == pytest.approx(3 / 6)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12).filter(
        lambda pairs: len({right for _, right in pairs}) == 2
    )
)
def test_auc_equals_a_loop_over_pairs(pairs: list[tuple[int, bool]]) -> None:
    values = np.array([value for value, _ in pairs], dtype=float)
    right = np.array([is_right for _, is_right in pairs])
    wins = [
        (a > b) + 0.5 * (a == b)
        for a, a_right in pairs
        for b, b_right in pairs
        if a_right and not b_right
    ]
    assert auc(values, right) == pytest.approx(sum(wins) / len(wins))


def test_there_is_no_auc_of_one_kind() -> None:
    assert auc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_calibration_by_hand() -> None:
    scores = of([[0.42, 0.44, 1 - 1e-12]], [[0.0, 1.0, 1.0]])
    low, high = calibration(scores)
    assert (low["count"], low["low"], low["high"]) == (2, 0.4, 0.5)
    assert (low["predicted"], low["observed"]) == (pytest.approx(0.43), 0.5)
    # what rounds to 1 falls into the last bin
    assert (high["count"], high["low"]) == (1, 0.9)
    assert calibration_error(scores) == pytest.approx(2 / 3 * 0.07)


def test_ranking_by_hand() -> None:
    """To prompt a: a right answer and two wrong ones; to b: none that is wrong; c: one of each."""
    scores = of(
        [[0.9, 0.8], [0.95, 0.5], [0.6], [0.1], [0.7, 0.7, 0.7], [0.5, 0.9]],
        [[1, 1], [1, 0], [0], [1], [1, NAN, 1], [0, 1]],
    )
    figures = ranking_figures(["a", "a", "a", "b", "c", "c"], scores)
    assert figures["answer_pairs"] == 3
    # min: 0.8 against 0.5 and 0.6; 0.7 against 0.5
    assert figures["ranking_accuracy_min"] == 1
    # product: 0.72 against 0.475 and 0.6; 0.343 against 0.45
    assert figures["ranking_accuracy_product"] == pytest.approx(2 / 3)
    # last: 0.8 against 0.5 and 0.6; 0.7 against 0.9
    assert figures["ranking_accuracy_last"] == pytest.approx(2 / 3)


def test_equal_scores_count_half_and_no_pairs_give_no_ranking() -> None:
    half = ranking_figures(["a", "a"], of([[0.5], [0.5]], [[1], [0]]))
    assert half["ranking_accuracy_min"] == 0.5
    none = ranking_figures(["a", "b"], of([[0.5], [0.5]], [[1], [0]]))
    assert none["answer_pairs"] == 0 and none["ranking_accuracy_min"] is None


def test_the_most_wrong_steps_come_first() -> None:
    table = pd.DataFrame({"id": ["x", "y", "z"], "messages": ["p", "q", "r"]})
    texts = [["x1", "x2"], ["y1"], ["z1", "z2", "z3"]]
    found = most_wrong(table, texts, SCORES, count=2)
    assert [row["id"] for row in found] == ["y", "z"]
    assert found[0]["probability"] == pytest.approx(0.8) and found[0]["label"] == 0
    assert found[1]["steps"] == ["z1"]
    # the step without a label is not among them, however many are asked for
    assert len(most_wrong(table, texts, SCORES, count=10)) == 5
