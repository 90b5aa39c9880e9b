import logging

import pytest

from rlhf.common.progress import Progress


def lines(caplog: pytest.LogCaptureFixture, **options: object) -> list[str]:
    with caplog.at_level(logging.INFO, logger="rlhf"):
        progress = Progress("sft", 5, start=2, **options)  # type: ignore[arg-type]
        for step in range(3):
            progress.advance(1, {"loss": 1.23456, "step": str(step)})
        progress.close()
    return [record.getMessage() for record in caplog.records]


def test_without_a_terminal_it_tells_the_end_and_the_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = lines(caplog, every_seconds=3600)
    assert len(told) == 1  # nothing in between
    assert (
        told[0].startswith("sft 5/5") and "loss=1.235 step=2" in told[0] and "0 s left" in told[0]
    )


def test_it_tells_every_step_if_wanted_and_nothing_if_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert [line.split()[1] for line in lines(caplog, every_seconds=0)] == ["3/5", "4/5", "5/5"]
    caplog.clear()
    assert lines(caplog, show=False) == []
