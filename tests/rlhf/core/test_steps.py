import json
import math
from contextlib import closing
from pathlib import Path

import pytest

from rlhf.common.errors import TrainingError
from rlhf.common.metrics import write_summary
from rlhf.core.steps import StepLog, ends, read_steps, write_plot_data


def test_rows_come_back_and_none_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "sft.jsonl"
    with closing(StepLog(path)) as log:
        log.write(0, {"loss": 1.5, "word": "x", "missing": None})
        log.write(1, {"loss": 0.1 + 0.2})
    assert read_steps(path) == [
        {"step": 0, "loss": 1.5, "word": "x"},
        {"step": 1, "loss": 0.1 + 0.2},
    ]


def test_rows_can_be_read_while_the_log_is_open(tmp_path: Path) -> None:
    with closing(StepLog(tmp_path / "sft.jsonl")) as log:
        log.write(0, {"loss": 1.5})
        assert read_steps(log.path) == [{"step": 0, "loss": 1.5}]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    refused = pytest.raises(TrainingError, match=r"sft\.jsonl step 3: not finite: kl, loss")
    with closing(StepLog(tmp_path / "sft.jsonl")) as log, refused:
        log.write(3, {"loss": bad, "kl": bad, "fine": 1.0})
    assert read_steps(tmp_path / "sft.jsonl") == []
    with pytest.raises(TrainingError, match=r"sft\.json: not finite: loss"):
        write_summary(tmp_path / "sft.json", {"loss": bad})
    assert not (tmp_path / "sft.json").exists()


@pytest.mark.parametrize("removed", [False, True])
def test_a_resumed_log_holds_what_its_checkpoint_holds(tmp_path: Path, removed: bool) -> None:
    """Later steps are forgotten, and it does not matter that DVC removed the file in between."""
    path, checkpoint = tmp_path / "metrics" / "sft.jsonl", tmp_path / "step-1"
    checkpoint.mkdir()
    with closing(StepLog(path)) as log:
        log.write(0, {"loss": 3.0})
        log.write(1, {"loss": 2.0})
        log.copy_to(checkpoint)
        log.write(2, {"loss": 9.0})
    # cut off by a kill
    with path.open("a") as stream:
        stream.write('{"step": 3, "lo')
    if removed:
        path.unlink()
    with closing(StepLog(path, checkpoint)) as log:
        log.write(2, {"loss": 1.0})
    losses = {row["step"]: row["loss"] for row in read_steps(path)}
    assert losses == {0: 3.0, 1: 2.0, 2: 1.0}


def test_a_new_log_forgets_an_old_file_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    assert read_steps(path) == [{"step": 0, "loss": 1.0}]
    StepLog(path).close()
    assert read_steps(path) == []
    assert read_steps(tmp_path / "none.jsonl") == []


def test_plot_data_has_a_row_a_step_with_every_key(tmp_path: Path) -> None:
    with closing(StepLog(tmp_path / "sft.jsonl")) as log:
        log.write(2, {"loss": 1.0})
        log.write(1, {"loss": 2.0})
        log.write(2, {"validation_loss": 1.5})
    write_plot_data(tmp_path / "sft.jsonl", tmp_path / "plot.json")
    assert json.loads((tmp_path / "plot.json").read_text()) == [
        {"loss": 2.0, "step": 1, "validation_loss": None},
        {"loss": 1.0, "step": 2, "validation_loss": 1.5},
    ]


def test_ends_by_hand() -> None:
    rows = [{"kl": float(n)} for n in range(20)]
    assert ends(rows, "kl") == (0.5, 18.5)
    assert ends(rows[:9], "kl") == (0.0, 8.0)
    assert ends(rows[:1], "kl") == (0.0, 0.0)
