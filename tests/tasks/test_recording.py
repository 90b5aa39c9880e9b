from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlhf.core.steps import StepLog
from tasks.recording import StepTail


def test_steps_are_sent_as_they_are_written_and_the_rest_at_the_end(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    tail = StepTail(tmp_path / "x.jsonl", sent.extend, seconds=3600)
    with closing(StepLog(tmp_path / "x.jsonl")) as log:
        log.write(-1, {"loss": 2.0, "note": "text", "missing": None})
        log.write(0, {"loss": 1.0, "done": True})
        tail.send_new()
        assert sent == [
            {"step": -1, "loss": 2.0, "note": "text"},
            {"step": 0, "loss": 1.0, "done": True},
        ]
        log.write(1, {"loss": 0.5})
    with (tmp_path / "x.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')  # a run that was killed in mid-line
    tail.close()
    assert sent[2:] == [{"step": 1, "loss": 0.5}]


def test_an_earlier_runs_log_is_not_taken_for_this_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with closing(StepLog(path)) as log:
        log.write(5, {"loss": 9.0})
    sent: list[dict[str, Any]] = []
    tail = StepTail(path, sent.extend, seconds=3600)
    tail.send_new()
    assert sent == []
    with closing(StepLog(path)) as log:  # begins anew, and is shorter for a while
        log.write(1, {"loss": 1.0})
    tail.close()
    assert sent == [{"step": 1, "loss": 1.0}]


def test_rows_that_could_not_be_sent_are_sent_later(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    broken = True

    def send(metrics: list[dict[str, Any]]) -> None:
        if broken:
            raise ConnectionError("gone")
        sent.extend(metrics)

    tail = StepTail(tmp_path / "x.jsonl", send, seconds=3600)
    with closing(StepLog(tmp_path / "x.jsonl")) as log:
        log.write(1, {"loss": 1.0})
        log.write(2, {"loss": 0.5})
    with pytest.raises(ConnectionError):
        tail.send_new()
    assert sent == []
    broken = False
    tail.close()
    assert sent == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
