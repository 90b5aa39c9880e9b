"""The process reward model and its step scores on two processes under ZeRO: the numbers of one process."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from neighbours import PROCESS, PROCESS_MODEL
from test_loop_processes import COMMON, assert_same, on_two_processes
from tiny import copy_workspace, numbers, tiny_settings

from rlhf.training import loop, process
from rlhf.workspace import Workspace


@pytest.mark.long
def test_the_model_is_trained_alike(workspace: Workspace, tmp_path: Path) -> None:
    alone = copy_workspace(workspace, tmp_path / "alone")
    changes: dict[str, Any] = copy.deepcopy(dict(PROCESS_MODEL)) | {"ppo.micro_batch": 2}
    # an odd number of micro-batches: one stands in with weight 0
    changes["process"] |= {"micro_batch_tokens": 40, "max_steps": 4}
    process.train(tiny_settings(changes), alone)
    on_two_processes(workspace, 2, changes, ["-m", "rlhf.commands.worker", "process"])
    one, two = (numbers(place.steps("process")) for place in (alone, workspace))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [0, 1, 2, 3, 4]
    for expected, row in zip(one, two, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=2e-5), expected["step"]
    first, second = (json.loads(at.metrics("process").read_text()) for at in (alone, workspace))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)


@pytest.mark.long
def test_step_scores_are_paid_alike(workspace: Workspace, tmp_path: Path) -> None:
    alone = copy_workspace(workspace, tmp_path / "alone")
    loop.train(tiny_settings({**COMMON, **PROCESS}), alone)
    on_two_processes(workspace, 2, {**COMMON, **PROCESS})
    assert_same(alone, workspace, steps=[-1, 0, 1, 2, 3])
