from dataclasses import replace

from rlhf.report.dialogues import select_dialogues
from rlhf.report.inputs import ComparisonRow


def comparison(
    index: int, gain: float, verdict: str, models: tuple[str, str] = ("policy", "sft")
) -> ComparisonRow:
    challenger, baseline = models
    return ComparisonRow(
        id=f"p{index}",
        kind="helpful",
        challenger=challenger,
        baseline=baseline,
        judge="gold",
        messages=[{"role": "user", "content": "hi"}],
        response_challenger=f"{challenger} {index}",
        response_baseline=f"{baseline} {index}",
        score_challenger=gain,
        score_baseline=0.0,
        verdict=verdict,
    )


GAINS = (3, -1, 5, -4, 1, -2, 0.5, 2, -3)
ROWS = [comparison(index, gain, "win" if gain > 0 else "lose") for index, gain in enumerate(GAINS)]


def test_best_gains_worst_losses_and_random_ones() -> None:
    dialogues = select_dialogues(ROWS, 6, seed=1)
    reasons = [dialogue.reason for dialogue in dialogues]
    assert reasons == ["best gain"] * 2 + ["worst loss"] * 2 + ["random"] * 2
    # the last response is the policy's
    scores = [dialogue.responses[-1].score for dialogue in dialogues]
    assert scores[:4] == [5, 3, -4, -3]
    # no prompt is shown twice
    assert len({dialogue.responses[0].text for dialogue in dialogues}) == 6


def test_the_seed_alone_decides_which_are_random() -> None:
    dialogues = select_dialogues(ROWS, 6, seed=1)
    assert select_dialogues(ROWS[::-1], 6, seed=1) == dialogues
    others = [select_dialogues(ROWS, 6, seed=seed) for seed in range(9)]
    assert any(other[4:] != dialogues[4:] for other in others)
    assert all(other[:4] == dialogues[:4] for other in others)


def test_random_ones_fill_up_where_nothing_was_won_or_lost() -> None:
    ties = [comparison(index, 0.0, "tie") for index in range(4)]
    dialogues = select_dialogues(ties, 3, seed=1)
    assert [dialogue.reason for dialogue in dialogues] == ["random"] * 3
    assert len(select_dialogues(ties, 30, seed=1)) == 4
    assert select_dialogues([], 3, seed=1) == []


def test_responses_of_all_models_stand_in_the_order_of_training() -> None:
    rows = [comparison(1, 2.0, "win"), comparison(1, 1.0, "win", ("sft", "base"))]
    (dialogue,) = select_dialogues(rows, 3, seed=1)
    assert [response.model for response in dialogue.responses] == ["base", "sft", "policy"]


def test_a_judge_without_scores_or_verdicts_is_shown_too() -> None:
    rows = [replace(row, score_challenger=None, score_baseline=None) for row in ROWS]
    assert len(select_dialogues(rows, 6, seed=1)) == 6
    unjudged = [replace(row, verdict=None) for row in rows]
    verdicts = {dialogue.verdict for dialogue in select_dialogues(unjudged, 6, seed=1)}
    assert verdicts == {"no verdict"}


def test_the_first_judge_selects_the_dialogues() -> None:
    others = [replace(row, judge="rules", verdict="tie") for row in ROWS]
    assert select_dialogues([*ROWS, *others], 6, seed=1) == select_dialogues(ROWS, 6, seed=1)
