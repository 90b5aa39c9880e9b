"""DPO on two processes under ZeRO against one process in plain torch: the same numbers."""

import json
from pathlib import Path

import pytest
from neighbours import DPO
from test_loop_processes import on_two_processes
from tiny import copy_workspace, numbers, tiny_settings

from rlhf.training import dpo
from rlhf.workspace import Workspace


@pytest.mark.long
def test_two_processes_give_the_numbers_of_one(workspace: Workspace, tmp_path: Path) -> None:
    alone = copy_workspace(workspace, tmp_path / "alone")
    # an odd number of micro-batches: one stands in with weight 0
    section = {**DPO["dpo"], "micro_batch_tokens": 30, "max_steps": 4}
    changes = {"dpo": section, "ppo.micro_batch": 2}
    dpo.train(tiny_settings(changes), alone)
    on_two_processes(workspace, 2, changes, ["-m", "rlhf.commands.worker", "dpo"])
    one, two = (numbers(place.steps("dpo")) for place in (alone, workspace))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [0, 1, 2, 3, 4]
    for expected, row in zip(one, two, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=2e-5), expected["step"]
    first, second = (json.loads(place.metrics("dpo").read_text()) for place in (alone, workspace))
    assert second["margin_mean"] == pytest.approx(first["margin_mean"], rel=1e-3, abs=2e-5)
