"""A run that goes on with another engine, other processes or micro-batches: the same numbers but for rounding."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_loop_processes import COMMON, on_two_processes
from tiny import copy_workspace, numbers, tiny_settings

from rlhf.engine.single import TorchEngine
from rlhf.settings import Settings
from rlhf.settings.training import EngineSettings
from rlhf.training import loop, run, sft
from rlhf.training.run import begin
from rlhf.workspace import Workspace

SFT = {"sft.batch_tokens": 32, "sft.epochs": 1.0, "sft.checkpoint_every": 3, "ppo.micro_batch": 2}
PPO = {**COMMON, "ppo.ptx.windows": 2, "ppo.keep_checkpoint": False}


def key_of(workspace: Workspace, **engine: Any) -> str:
    settings = tiny_settings({**SFT, **{f"engine.{key}": value for key, value in engine.items()}})
    return begin("sft", settings, workspace, ["sft"], {}).checkpoints.directory.name


def test_a_run_is_the_same_whatever_computes_it(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one that starts no group of processes here
    monkeypatch.setattr(
        run,
        "make_engine",
        lambda settings: TorchEngine(EngineSettings(precision=settings.precision)),
    )
    key = key_of(prepared)
    assert key == key_of(prepared, kind="deepspeed", processes=2, zero_stage=3)
    assert key == key_of(prepared, gradient_checkpointing=True, threads=2)
    assert key != key_of(prepared, precision="bf16")


@pytest.mark.parametrize(
    ("stage", "train", "changes"),
    [
        pytest.param("sft", sft.train, SFT, id="sft", marks=pytest.mark.long),
        pytest.param("ppo", loop.train, PPO, id="ppo", marks=pytest.mark.long),
    ],
)
def test_two_processes_and_plain_torch_go_on_from_each_other(
    workspace: Workspace,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stage: str,
    train: Callable[[Settings, Workspace], None],
    changes: Mapping[str, Any],
) -> None:
    """Each ends; then its outputs are removed, and the other goes on from its last checkpoint."""
    shared, alone = workspace, copy_workspace(workspace, tmp_path / "alone")
    command = ["-m", "rlhf.commands.worker", stage]
    train(tiny_settings(changes), alone)
    on_two_processes(shared, 3, changes, command)
    whole = numbers(alone.steps(stage))

    for place in (alone, shared):
        shutil.rmtree(place.root / "metrics")
    with caplog.at_level(logging.INFO, logger="rlhf"):
        train(tiny_settings(changes), shared)
    assert "was written by 2 processes of ZeRO-3, micro_batch" in caplog.text
    assert "; it goes on with 1 process of torch, micro_batch" in caplog.text
    told = on_two_processes(alone, 3, changes, command)
    assert "was written by 1 process of torch, micro_batch" in told
    assert "; it goes on with 2 processes of ZeRO-3, micro_batch" in told

    for place in (alone, shared):
        assert len(list((place.checkpoints / stage).iterdir())) == 1
        rows = numbers(place.steps(stage))
        assert [row["step"] for row in rows] == [row["step"] for row in whole]
        for expected, row in zip(whole, rows, strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=2e-5), expected["step"]
