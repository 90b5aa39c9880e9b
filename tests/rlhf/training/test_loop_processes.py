"""The policy loop on two processes under ZeRO against one process in plain torch: the same numbers."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import made_up
import pytest
from neighbours import (
    AIHF,
    AIHF_DIRECT,
    APA,
    ETPO,
    GRPO,
    REINFORCE_PP,
    RLOO,
    RTO,
    lora,
    online_dpo,
    xpo,
)
from tiny import copy_workspace, numbers, tiny_settings, write_settings

from rlhf.registry import ALGORITHMS
from rlhf.training import loop
from rlhf.workspace import Workspace

DISTRIBUTED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
COMMON: Mapping[str, Any] = {
    "ppo.micro_batch": 2,
    "ppo.iterations": 3,
    "ppo.trainable_layers": None,
    # two micro-batches for one process, one for the other: ZeRO-3 must not wait for ever
    "ppo.validation_prompts": 5,
}


WORKER = ("-m", "rlhf.commands.worker", "ppo")


def on_processes(
    workspace: Workspace,
    count: int,
    zero_stage: int,
    changes: Mapping[str, Any],
    program: Sequence[str] = WORKER,
) -> str:
    """Run a stage there; gives what it printed."""
    engine = {
        "engine.kind": "deepspeed",
        "engine.processes": count,
        "engine.zero_stage": zero_stage,
    }
    write_settings(workspace, tiny_settings({**engine, **changes}))
    environment = {key: value for key, value in os.environ.items() if key not in DISTRIBUTED}
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
    ]
    done = subprocess.run(
        [*torchrun, *program],
        cwd=workspace.root,
        env=environment | {"DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def on_two_processes(
    workspace: Workspace, stage: int, changes: Mapping[str, Any], program: Sequence[str] = WORKER
) -> str:
    """As `on_processes`, with two and ZeRO's stage `stage`."""
    return on_processes(workspace, 2, stage, changes, program)


# what asks the other process: the std of all rollouts, the mean length of a mini-batch
_GRPO = {**GRPO, "ppo.grpo": {"kl_coefficient": 0.04, "scale": "batch", "loss": "sequence"}}


@pytest.mark.parametrize(
    ("stage", "algorithm"),
    [
        # three windows of plain text for two processes; one, which leaves none for the other
        pytest.param(2, {"ppo.ptx.windows": 3}, id="ppo-max-stage-2", marks=pytest.mark.long),
        pytest.param(3, {"ppo.ptx.windows": 1}, id="ppo-max-stage-3"),
        pytest.param(2, APA, id="apa-stage-2", marks=pytest.mark.long),
        pytest.param(2, _GRPO, id="grpo-stage-2", marks=pytest.mark.long),
        pytest.param(2, RLOO, id="rloo-stage-2", marks=pytest.mark.long),
        pytest.param(2, REINFORCE_PP, id="reinforce-pp-stage-2", marks=pytest.mark.long),
        pytest.param(3, RTO, id="rto-stage-3", marks=pytest.mark.long),
        pytest.param(2, ETPO, id="etpo-stage-2", marks=pytest.mark.long),
        pytest.param(2, AIHF, id="aihf-stage-2", marks=pytest.mark.long),
        pytest.param(2, AIHF_DIRECT, id="aihf-direct-stage-2", marks=pytest.mark.long),
        pytest.param(2, online_dpo(), id="online-dpo-stage-2", marks=pytest.mark.long),
        pytest.param(2, lora("ppo"), id="lora-stage-2", marks=pytest.mark.long),
        pytest.param(3, lora("ppo"), id="lora-stage-3", marks=pytest.mark.long),
    ],
)
def test_two_processes_give_the_numbers_of_one(
    workspace: Workspace, tmp_path: Path, stage: int, algorithm: Mapping[str, Any]
) -> None:
    alone = copy_workspace(workspace, tmp_path / "alone")
    no_text = {} if "ppo.ptx.windows" in algorithm else {"ppo.ptx": None}
    changes = {**COMMON, **no_text, **algorithm}
    loop.train(tiny_settings(changes), alone)
    on_two_processes(workspace, stage, changes)
    # a critic learns alone first
    first = 0 if "ppo.critic" in algorithm else -1
    assert_same(alone, workspace, steps=list(range(first, 4)))


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        pytest.param(2, "sharded", id="stage-2-sharded", marks=pytest.mark.long),
        pytest.param(3, "host", id="stage-3-host", marks=pytest.mark.long),
    ],
)
def test_frozen_models_in_parts_give_the_numbers_of_one_process_too(
    workspace: Workspace, tmp_path: Path, stage: int, where: str
) -> None:
    """Reference and reward model; responses drawn two at a time."""
    alone = copy_workspace(workspace, tmp_path / "alone")
    loop.train(tiny_settings({**COMMON, "ppo.ptx": None}), alone)
    in_parts = {"engine.frozen_models": where, "ppo.sampling.batch_size": 2}
    on_two_processes(workspace, stage, {**COMMON, "ppo.ptx": None, **in_parts})
    assert_same(alone, workspace, steps=[-1, 0, 1, 2, 3])


@pytest.mark.long
@pytest.mark.parametrize("judge", [None, "rules"])
def test_pairs_that_accumulate_give_the_numbers_of_one_process_too(
    workspace: Workspace, tmp_path: Path, judge: str | None
) -> None:
    """Two draws each, the reference's among them; each process learns from its part of all pairs."""
    alone = copy_workspace(workspace, tmp_path / "alone")
    changes = {**COMMON, **xpo(alpha=[0.05, 0.01], judge=judge)}
    loop.train(tiny_settings(changes), alone)
    on_two_processes(workspace, 2, changes)
    assert_same(alone, workspace, steps=[0, 1, 2, 3])
    assert [row.get("pairs") for row in numbers(workspace.steps("ppo"))] == [8, 16, 24, None]


# torchrun starts it as a program: the algorithm is made known first
MADE_UP = """
import sys

sys.path.insert(0, {folder!r})
import made_up

from rlhf.commands.worker import main

made_up.register()
sys.exit(main(["ppo"]))
"""


@pytest.mark.long
def test_an_algorithm_of_its_own_kind_gives_the_numbers_of_one_process_too(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several draws, roles in turn, a target network, named updates, an iteration without any."""
    for name, place in made_up.PLACES.items():
        monkeypatch.setitem(ALGORITHMS, name, place)
    alone = copy_workspace(workspace, tmp_path / "alone")
    changes = {**made_up.CHANGES, "ppo.micro_batch": 2}
    loop.train(tiny_settings(changes), alone)
    program = tmp_path / "program.py"
    program.write_text(MADE_UP.format(folder=str(Path(made_up.__file__).parent)))
    on_two_processes(workspace, 2, changes, [str(program)])
    assert_same(alone, workspace, steps=[0, 1, 2, 3, 4])


def assert_same(alone: Workspace, shared: Workspace, steps: list[int]) -> None:
    one, two = (numbers(place.steps("ppo")) for place in (alone, shared))
    assert [row["step"] for row in two] == [row["step"] for row in one] == steps
    for expected, row in zip(one, two, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=2e-5), expected["step"]

    first, second = (samples(place) for place in (alone, shared))
    assert first == second


def samples(workspace: Workspace) -> list[tuple[int, str, str]]:
    rows = numbers(workspace.samples("ppo"))
    return sorted((row["step"], row["prompt"], row["response"]) for row in rows)
