"""A process reward model of a task whose truth is known: additions with written carries."""

import json
from pathlib import Path
from random import Random

import pytest
from additions import (
    SEPARATOR,
    TOKENIZER,
    Addition,
    addition_workspace,
    attempt,
    drawn,
    prompt_ids,
    response_ids,
    write_solutions,
)
from test_process import settings_with

from rlhf.batches.tables import read_table
from rlhf.core.separators import StepFinder
from rlhf.engine import make_engine
from rlhf.rewards.step_scores import StepScorer
from rlhf.training import process

ADDITION = Addition((1, 7), (2, 5))
RIGHT = ["7+5+0=12", "1+2+1=04", "042"]


def test_the_right_lines_by_hand() -> None:
    assert ADDITION.prompt == "17+25"
    assert ADDITION.lines == RIGHT
    assert Addition((3, 2), (3, 3), base=4).lines == ["2+3+0=11", "3+3+1=13", "131"]


@pytest.mark.parametrize(
    ("lines", "verdicts"),
    [
        (RIGHT, [True, True, True]),
        # a wrong carry: what follows from it is right
        (["7+5+0=02", "1+2+0=03", "032"], [False, True, True]),
        # and what follows from the truth is not
        (["7+5+0=02", "1+2+1=04", "042"], [False, False, True]),
        (["7+5+0=12", "1+2+1=04", "043"], [True, True, False]),
        # digits that the prompt does not have there
        (["5+7+0=12", "1+2+1=04", "042"], [False, True, True]),
        # one line too many, and lines that cannot be read
        ([*RIGHT, "042"], [True, True, True, False]),
        (["", "=", "000"], [False, False, True]),
    ],
)
def test_each_line_is_judged_by_those_before_it(lines: list[str], verdicts: list[bool]) -> None:
    assert ADDITION.verdicts(lines) == verdicts


def test_without_slips_the_answer_is_the_sum() -> None:
    random = Random(3)
    for _ in range(200):
        addition = drawn(random, places=3)
        lines = attempt(random, addition, slip=0.0)
        assert all(addition.verdicts(lines)) and len(lines) == 4
        left, right = addition.prompt.split("+")
        assert int(lines[-1]) == int(left) + int(right)


def test_a_slip_makes_its_own_line_wrong_and_no_other() -> None:
    random = Random(4)
    verdicts = []
    for _ in range(300):
        addition = drawn(random)
        verdicts += addition.verdicts(attempt(random, addition, slip=0.3))
    assert 0.65 < sum(verdicts) / len(verdicts) < 0.75
    assert not any(ADDITION.verdicts(attempt(random, ADDITION, slip=1.0)))


def test_every_letter_is_a_token_and_every_line_a_step() -> None:
    ids = response_ids(RIGHT)
    assert TOKENIZER.decode(ids) == "\n".join(RIGHT) + "<|im_end|>"
    assert StepFinder(TOKENIZER, SEPARATOR).ends(ids) == [8, 17, 21]


def test_it_learns_which_lines_are_right(tmp_path: Path) -> None:
    """Of additions that it never saw: 160 steps of 64 answers, some ten seconds of one core."""
    workspace = addition_workspace(tmp_path)
    counts = {"train": 2560, "validation": 64, "test": 640}
    write_solutions(workspace, counts, base=4, slip=0.3, attempts=16)
    openings = read_table(workspace, "steps").groupby("opening")["split"].nunique()
    assert set(openings) == {1}

    settings = settings_with(
        batch_tokens=1856,
        micro_batch_tokens=1856,
        epochs=4.0,
        optimizer__learning_rate=5e-3,
        evaluate_every=1000,
        checkpoint_every=1000,
    )
    process.train(settings, workspace)
    summary = json.loads(workspace.metrics("process").read_text())
    assert summary["auc"] > 0.9
    assert summary["accuracy"] > summary["right_fraction"] + 0.05
    # a wrong line anywhere: the last step alone does not show it
    least, product, last = (
        summary[f"ranking_accuracy_{aggregate}"] for aggregate in ("min", "product", "last")
    )
    assert min(least, product) > 0.9 and last < least - 0.05

    # the best of four: one that is right, and three with one wrong line each
    addition = Addition((1, 3), (2, 2), base=4)
    right = addition.lines
    others = [line[:-1] + str((int(line[-1]) + 1) % 4) for line in right]
    slips = [[*right[:n], others[n], *right[n + 1 :]] for n in range(3)]
    assert all(not all(addition.verdicts(lines)) for lines in slips)
    answers = [response_ids(lines) for lines in (*slips, right)]
    scorer = StepScorer.load(workspace.model("process"), make_engine(settings.engine))
    assert scorer.best_of_n([prompt_ids(addition)] * 4, answers, 4, "min") == [3]
