"""Settings that a run writes: they stay with what was made from them, and go with a run that made nothing."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rlhf.common.errors import RlhfError
from rlhf.common.yaml import read_yaml
from tasks.repro import dvc_repro, override, settings_changed
from tests.project_copy import Project
from tests.waiting import wait_for_text, wait_until

# `one` reads the first, `two` the second
CHANGES = {"seed": 7, "report.dialogues": 3}


def params(project: Project) -> Path:
    return project.root / "params.yaml"


def changing(project: Project) -> Callable[[], None]:
    return partial(override, project.root, CHANGES)


def interrupt_once_the_first_stage_runs(project: Project) -> None:
    """Ctrl-C, when DVC waits for its stage."""

    def watch() -> None:
        wait_for_text(project.root / ".dvc" / "tmp" / "rwlock", "one.txt")
        wait_until((project.root / "begun").exists, "the stage did not begin")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_a_refused_run_leaves_the_settings_as_they_were(repository: Project) -> None:
    before = params(repository).read_text()
    told: list[str] = []
    with (
        pytest.raises(RlhfError, match="no worker"),
        settings_changed(repository.root, changing(repository), told.append),
    ):
        assert read_yaml(params(repository))["seed"] == 7
        raise RlhfError("no worker")
    assert params(repository).read_text() == before
    (line,) = told
    assert "is again as it was before this run" in line and "writes its settings again" in line


def test_a_run_cancelled_in_its_first_stage_leaves_them_too_and_can_be_tried_again(
    repository: Project,
) -> None:
    before = params(repository).read_text()
    hold = repository.hold()
    interrupt_once_the_first_stage_runs(repository)
    with (
        pytest.raises(KeyboardInterrupt),
        settings_changed(repository.root, changing(repository), print),
    ):
        dvc_repro(repository.root, [], print)
    assert params(repository).read_text() == before
    hold.unlink()
    # the same run again, which is cancelled when its first stage has finished
    with (
        pytest.raises(KeyboardInterrupt),
        settings_changed(repository.root, changing(repository), print),
    ):
        dvc_repro(repository.root, ["one"], print)
        raise KeyboardInterrupt
    assert read_yaml(params(repository))["seed"] == 7
    # what an earlier run has finished is not this one's
    after = params(repository).read_text()
    with (
        pytest.raises(KeyboardInterrupt),
        settings_changed(repository.root, partial(override, repository.root, {"seed": 8}), print),
    ):
        raise KeyboardInterrupt
    assert params(repository).read_text() == after


def test_settings_that_somebody_edits_meanwhile_stay(repository: Project) -> None:
    told: list[str] = []
    with (
        pytest.raises(RlhfError, match="no worker"),
        settings_changed(repository.root, changing(repository), told.append),
    ):
        params(repository).write_text("mine: 1\n")
        raise RlhfError("no worker")
    assert params(repository).read_text() == "mine: 1\n"
    assert "was changed while this run worked" in told[0]


def test_settings_that_were_not_there_are_gone_again(repository: Project) -> None:
    params(repository).unlink()
    with (
        pytest.raises(RlhfError, match="no worker"),
        settings_changed(
            repository.root, lambda: params(repository).write_text("seed: 1\n"), print
        ),
    ):
        raise RlhfError("no worker")
    assert not params(repository).exists()


def test_a_run_that_changes_nothing_tells_nothing(repository: Project) -> None:
    told: list[str] = []
    with (
        pytest.raises(RlhfError, match="no worker"),
        settings_changed(repository.root, partial(override, repository.root, {}), told.append),
    ):
        raise RlhfError("no worker")
    assert told == []
