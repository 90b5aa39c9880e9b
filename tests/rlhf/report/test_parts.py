import numpy as np
import pytest

from rlhf.report.comparisons import judge_rows
from rlhf.report.dialogues import choose_dialogues
from rlhf.report.figures import (
    Curve,
    Lines,
    calibration,
    evenly,
    histogram,
    lines,
    ridgelines,
    running_mean,
)
from rlhf.report.page import duration, number, percent, signed
from rlhf.report.rows import data_view


def comparison(
    index: int, gain: float, verdict: str, pair: tuple[str, str] = ("policy", "sft")
) -> dict[str, object]:
    return {
        "id": f"p{index}", "kind": "helpful", "judge": "gold", "challenger": pair[0], "baseline": pair[1], "verdict": verdict,
        "messages": [{"role": "user", "content": "hi"}], "response_challenger": f"{pair[0]} {index}",
        "response_baseline": f"{pair[1]} {index}", "score_challenger": gain, "score_baseline": 0.0,
    }  # fmt: skip


ROWS = [
    comparison(n, gain, "win" if gain > 0 else "lose")
    for n, gain in enumerate((3, -1, 5, -4, 1, -2, 0.5, 2, -3))
]


def test_dialogues_best_worst_and_random() -> None:
    found = choose_dialogues(ROWS, 6, seed=1)
    assert [item.why for item in found] == ["best gain"] * 2 + ["worst loss"] * 2 + ["random"] * 2
    scores = [item.replies[-1].score for item in found]
    assert scores[:4] == [5, 3, -4, -3]
    assert len({item.replies[0].text for item in found}) == 6
    assert choose_dialogues(ROWS[::-1], 6, seed=1) == found  # the order of rows does not matter
    assert {
        tuple(d.replies[0].text for d in choose_dialogues(ROWS, 6, seed=n)[4:]) for n in range(9)
    } != set()


def test_dialogues_fill_up_where_nothing_was_won_and_stop_at_what_there_is() -> None:
    ties = [comparison(n, 0.0, "tie") for n in range(4)]
    assert [item.why for item in choose_dialogues(ties, 3, seed=1)] == ["random"] * 3
    assert len(choose_dialogues(ties, 30, seed=1)) == 4
    assert choose_dialogues([], 3, seed=1) == []


def test_replies_of_all_models_stand_in_the_order_of_training() -> None:
    rows = [comparison(1, 2.0, "win"), comparison(1, 1.0, "win", ("sft", "base"))]
    (found,) = choose_dialogues(rows, 3, seed=1)
    assert [reply.model for reply in found.replies] == ["base", "sft", "policy"]


def test_a_judge_without_scores_is_shown_too() -> None:
    rows = [row | {"score_challenger": None, "score_baseline": None} for row in ROWS]
    assert len(choose_dialogues(rows, 6, seed=1)) == 6
    unjudged = [row | {"verdict": None} for row in rows]
    assert {item.verdict for item in choose_dialogues(unjudged, 6, seed=1)} == {"no verdict"}


def test_the_first_judge_chooses_the_dialogues() -> None:
    others = [row | {"judge": "rules", "verdict": "tie"} for row in ROWS]
    assert choose_dialogues([*ROWS, *others], 6, seed=1) == choose_dialogues(ROWS, 6, seed=1)


def test_judges_and_opponents_report_what_they_cost_and_who_voted() -> None:
    details = {
        "judges": [
            {"judge": "chat", "facts": {"answers_asked": 9, "price": 0.5}},
            {"judge": "people", "facts": {"votes": 4, "kappa": -0.1}},
            {"judge": "mine", "facts": {"of_its_own": 1, "price": None}},
        ],
        "opponents": [{"opponent": "chat", "facts": {"answers_asked": 2}}],
    }
    rows = judge_rows(details)
    assert [
        (row["judge"], row["answers_asked"], row["price"], row["votes"], row["kappa"])
        for row in rows
    ] == [
        ("chat", 9, 0.5, None, None),
        ("people", None, None, 4, -0.1),
        ("chat, as opponent", 2, None, None, None),
    ]


def test_running_mean_by_hand() -> None:
    assert running_mean(np.array([1.0, 2.0, 6.0, 3.0]), 1).tolist() == [
        1.5,
        3.0,
        pytest.approx(11 / 3),
        4.5,
    ]


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [0, 4, 9]), (2, [0, 9]), (20, list(range(10)))]
)
def test_evenly_keeps_both_ends(count: int, expected: list[int]) -> None:
    assert evenly(list(range(10)), count) == expected


def test_figures_without_numbers_are_empty() -> None:
    assert lines(Lines("a", "A", (Curve("missing", "m"),)), [{"step": 1, "other": 2.0}]).svg is None
    assert histogram("b", "B", [], {}).svg is None
    assert histogram("b", "B", [0.0, 1.0], {"helpful": [0]}).svg is None
    assert calibration("c", "C", [{"count": 0, "predicted": None, "observed": None}]).svg is None
    assert ridgelines("d", "D", [{"step": 0, "edges": [0, 1], "counts": [0]}]).svg is None


def test_one_point_is_drawn_as_a_mark() -> None:
    panel = lines(Lines("one", "One", (Curve("kl", "KL"),)), [{"step": 0, "kl": 0.1}])
    assert panel.svg is not None
    assert "<use" in panel.svg


def test_data_view_loses_no_key() -> None:
    summary = {
        "sft_train": 7,
        "sft_train_helpful": 4,
        "sft_train_harmless": 3,
        "sft_dropped_empty_answer": 2,
        "sft/a.jsonl/train": 7,
        "sft/lost.jsonl/train": 1,
        "broken": 2,
    }
    view = data_view(summary, {"files": {"sft: a.jsonl": {"train": 7}}})
    assert view.kept == [("sft", "train", 7, [4, 3])]
    assert view.dropped == [("sft", "empty answer", 2)]
    assert view.rest == [("broken", 2), ("sft/lost.jsonl/train", 1)]
    assert view.files == [("sft: a.jsonl", [("train", 7)])]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.11349, "0.113"), (23.314, "23.3"), (1204, "1\u202f204"), (-2.5, "−2.50"), (True, "True"), (120.0, "120"),
     (12345.6, "12\u202f346"), (2e-5, "2e−05")],
)  # fmt: skip
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_other_formats() -> None:
    assert (percent(0.5), percent(None), percent(0.555, 0)) == ("50.0\u202f%", "–", "56\u202f%")
    assert (signed(1.234), signed(-0.5), signed(None)) == ("+1.23", "−0.50", "–")
    assert (duration(3.21), duration(90), duration(421), duration(7300)) == (
        "3.2 s",
        "90 s",
        "7 min",
        "2 h 02 min",
    )
