"""SFT, reward model, PPO-max and RTO under ZeRO-1, 2 and 3, on two and four processes, with and without adapters.

Each run is held to one process in plain torch with the same global batch. Where numbers may differ, they
do so by the order of float32 sums: gradients are added up over other parts of a batch, and matrix
products have other shapes. One step moves a loss of order 1 by 1e-7; the steps of these runs carry that
on, and PPO's ratios and advantages widen it. `CLOSE` is the bound of `test_loop_processes.py`. A wrong
mean (over processes in place of tokens, say) is off by percents.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from neighbours import RTO, lora
from test_loop_processes import COMMON, on_processes
from tiny import copy_workspace, numbers, tiny_settings

from rlhf.training import loop, reward, sft
from rlhf.workspace import Workspace

CLOSE: Mapping[str, float] = {"rel": 1e-3, "abs": 2e-5}

_PPO = {**COMMON, "ppo.micro_batch": 1, "ppo.ptx": None}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "sft": {"sft.batch_tokens": 96, "sft.micro_batch_tokens": 24, "ppo.micro_batch": 1},
    "reward": {"reward.batch_tokens": 256, "reward.micro_batch_tokens": 64, "ppo.micro_batch": 1},
    "ppo": _PPO,
    "rto": {**_PPO, **RTO},
}
TRAIN = {"sft": sft.train, "reward": reward.train, "ppo": loop.train, "rto": loop.train}

pytestmark = pytest.mark.long


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("what", CHANGES)
def test_every_stage_of_zero_gives_the_numbers_of_one_process(
    workspace: Workspace, tmp_path: Path, what: str, adapters: bool
) -> None:
    """All six in turn beside one run alone."""
    stage = "ppo" if what == "rto" else what
    changes = {**CHANGES[what], **(lora(stage) if adapters else {})}
    alone = copy_workspace(workspace, tmp_path / "alone")
    TRAIN[what](tiny_settings(changes), alone)
    expected = numbers(alone.steps(stage))
    for processes in (2, 4):
        for zero in (1, 2, 3):
            there = copy_workspace(workspace, tmp_path / f"{processes}-{zero}")
            program = ["-m", "rlhf.commands.worker", stage]
            on_processes(there, processes, zero, changes, program)
            found = numbers(there.steps(stage))
            assert [row["step"] for row in found] == [row["step"] for row in expected]
            for one, other in zip(expected, found, strict=True):
                where = f"{processes} processes, ZeRO-{zero}, step {one['step']}"
                assert other == pytest.approx(one, **CLOSE), where


@pytest.mark.parametrize(
    ("what", "zero", "offload"), [("sft", 2, "optimizer"), ("ppo", 3, "optimizer-and-parameters")]
)
def test_what_is_in_host_memory_changes_no_number(
    workspace: Workspace, tmp_path: Path, what: str, zero: int, offload: str
) -> None:
    """Beside the same ZeRO with all on the card, whose norm of the gradients alone is summed in another order."""
    program = ["-m", "rlhf.commands.worker", what]
    without = copy_workspace(workspace, tmp_path / "without")
    on_processes(without, 2, zero, CHANGES[what], program)
    on_processes(workspace, 2, zero, {**CHANGES[what], "engine.offload": offload}, program)
    expected, found = numbers(without.steps(what)), numbers(workspace.steps(what))
    assert len(found) == len(expected) > 2
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=2e-6), one["step"]
