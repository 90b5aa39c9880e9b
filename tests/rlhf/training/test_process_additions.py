"""A process reward model of a task whose truth is known: additions with written carries."""

import json
from pathlib import Path

import pytest
from additions import (
    TOKENIZER,
    addition_workspace,
    prompt_ids,
    response_ids,
    write_solutions,
)
from test_process import settings_with

from rlhf.batches.tables import read_table
from rlhf.core.separators import StepFinder
from rlhf.data.sources.additions import SEPARATOR, Addition
from rlhf.engine import make_engine
from rlhf.rewards.step_scores import StepScorer
from rlhf.training import process

RIGHT = ["7+5+0=12", "1+2+1=04", "042"]


def test_every_letter_is_a_token_and_every_line_a_step() -> None:
    ids = response_ids(RIGHT)
    assert TOKENIZER.decode(ids) == "\n".join(RIGHT) + "<|im_end|>"
    assert StepFinder(TOKENIZER, SEPARATOR).ends(ids) == [8, 17, 21]


@pytest.mark.long
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
