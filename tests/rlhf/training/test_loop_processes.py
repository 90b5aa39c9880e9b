"""The policy loop on two processes under ZeRO against one process in plain torch: the same numbers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import copy_workspace, numbers, tiny_settings, write_settings

from rlhf.training import loop
from rlhf.workspace import Workspace

DISTRIBUTED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
LOCAL = {"update", "rollout_seconds", "score_seconds", "update_seconds"}
COMMON: dict[str, Any] = {
    "ppo.micro_batch": 2, "ppo.iterations": 3, "ppo.trainable_layers": None,
    "ppo.validation_prompts": 5,  # two micro-batches for one process, one for the other: ZeRO-3 must not wait for ever
}  # fmt: skip


def on_two_processes(workspace: Workspace, stage: int) -> None:
    changes = COMMON | {
        "engine.kind": "deepspeed",
        "engine.processes": 2,
        "engine.zero_stage": stage,
    }
    write_settings(workspace, tiny_settings(changes | {"ppo.ptx.windows": 1}))
    environment = {key: value for key, value in os.environ.items() if key not in DISTRIBUTED}
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launcher, "-m", "rlhf.commands.worker", "ppo"],
        cwd=workspace.root,
        env=environment | {"DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_give_the_numbers_of_one(
    workspace: Workspace, tmp_path: Path, stage: int
) -> None:
    alone = copy_workspace(workspace, tmp_path / "alone")
    loop.train(
        tiny_settings(COMMON | {"ppo.ptx.windows": 2}), alone
    )  # the windows of a mini-batch are per process
    on_two_processes(workspace, stage)
    one, two = (numbers(place.steps("ppo")) for place in (alone, workspace))
    assert [row["step"] for row in two] == [row["step"] for row in one] == [-1, 0, 1, 2, 3]
    for expected, found in zip(one, two, strict=True):
        assert found.keys() == expected.keys()
        for key in expected.keys() - LOCAL:
            assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=2e-5), (
                expected["step"],
                key,
            )
    first, second = (numbers(place.samples("ppo")) for place in (alone, workspace))
    assert sorted((row["step"], row["prompt"], row["response"]) for row in first) == sorted(
        (row["step"], row["prompt"], row["response"]) for row in second
    )
