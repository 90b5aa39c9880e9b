"""What a stage does when numbers, disk or the user end it: a message, nothing half-written."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny import copy_workspace, outcome, tiny_settings, tree_of, write_settings
from workers import Harm, Worker, half_written

from rlhf.batches.tables import read_table
from rlhf.common.errors import TrainingError
from rlhf.common.files import read_json
from rlhf.settings import Settings
from rlhf.training import loop, reward, sft
from rlhf.workspace import Workspace

LONG = {"sft.epochs": 2000.0, "sft.checkpoint_every": 2, "sft.batch_tokens": 48}

Train = Callable[[Settings, Workspace], None]


# -- numbers ------------------------------------------------------------------------------------


def refused_step(
    workspace: Workspace, train: Train, stage: str, model: str, step: int
) -> dict[str, Any]:
    """Train at a rate that overflows; the batch that the refused step leaves."""
    changes: dict[str, Any] = {
        f"{stage}.optimizer.learning_rate": 1e30,
        "sft.batch_tokens": 48,
        "gold.batch_tokens": 128,
    }
    shutil.rmtree(workspace.model(model), ignore_errors=True)
    place = rf"\.failures/{stage}-step-{step}"
    message = rf"{stage}, step {step}: (loss|gradient norm) is .*{place}"
    with pytest.raises(TrainingError, match=message):
        train(tiny_settings(changes), workspace)
    assert not workspace.model(model).exists()
    assert not workspace.metrics(stage).exists()
    assert half_written(workspace.root) == []

    (failure,) = workspace.failures.iterdir()
    assert failure.name == f"{stage}-step-{step}.rank-0.json"
    evidence = json.loads(failure.read_text())
    assert (evidence["stage"], evidence["step"]) == (stage, step)
    batch: dict[str, Any] = evidence["batch"]
    return batch


def test_a_step_that_is_not_finite_leaves_its_dialogues(workspace: Workspace) -> None:
    batch = refused_step(workspace, sft.train, "sft", "sft", step=2)
    table = read_table(workspace, "sft", split="train")
    assert batch["rows"] and set(batch["rows"]) < set(table["id"])


def test_a_step_that_is_not_finite_leaves_its_pairs(workspace: Workspace) -> None:
    train = partial(reward.train, role="gold")
    batch = refused_step(workspace, train, "gold", "gold", step=2)
    table = read_table(workspace, "preferences", split="gold")
    assert batch["rows"] and set(batch["rows"]) < set(table["id"])


def test_a_step_that_is_not_finite_leaves_its_responses(workspace: Workspace) -> None:
    batch = refused_step(workspace, loop.train, "ppo", "policy", step=0)
    assert batch["trainer"] == "policy"
    assert len(batch["input_ids"]) == len(batch["advantages"]) == 4
    # two windows of plain text
    assert len(batch["plain_text"]) == 2


def poison(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_are_not_finite_are_noticed_before_they_are_learnt_from(
    workspace: Workspace,
) -> None:
    poison(workspace.model("base"))
    shutil.rmtree(workspace.model("sft"))
    with pytest.raises(TrainingError, match=r"sft\.jsonl step 0: not finite: validation_loss"):
        sft.train(tiny_settings(), workspace)
    assert not workspace.model("sft").exists()


def test_a_policy_that_is_not_finite_is_noticed_in_its_first_iteration(
    workspace: Workspace,
) -> None:
    poison(workspace.model("sft"))
    message = r"ppo, in the critic's warm-up, .*: loss is nan.*\.failures/ppo-step--1\.rank-0\.json"
    with pytest.raises(TrainingError, match=message):
        loop.train(tiny_settings(), workspace)
    assert not workspace.model("policy").exists()
    (failure,) = workspace.failures.iterdir()
    evidence = json.loads(failure.read_text())
    assert "nan" in evidence["batch"]["advantages"][0]


# -- disk ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 500 KB: room for the base model and half of another."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", place]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.long
def test_a_full_disk_ends_the_run_with_the_name_of_what_could_not_be_written(
    workspace: Workspace, small_disk: Path
) -> None:
    models = workspace.root / "models"
    shutil.copytree(models / "base", small_disk / "base")
    shutil.rmtree(models)
    models.symlink_to(small_disk)
    write_settings(workspace, tiny_settings({"sft.checkpoint_every": 1000}))
    worker = Worker("sft", workspace.root)
    assert worker.code() == 1
    assert "Traceback" not in worker.log()
    assert "error: models/sft: " in worker.log() and "No space left on device" in worker.log()
    assert sorted(path.name for path in small_disk.iterdir()) == ["base"]
    assert not workspace.metrics("sft").exists()


@pytest.mark.parametrize(
    ("stage", "checkpoint_every", "place"),
    [
        ("sft", 1000, "models/sft"),
        ("sft", 2, ".checkpoints/sft"),
        ("ppo", 1000, "models/policy"),
        ("ppo", 1, ".checkpoints/ppo"),
    ],
)
def test_a_file_that_cannot_grow_ends_the_run_with_its_name(
    workspace: Workspace, stage: str, checkpoint_every: int, place: str
) -> None:
    """As on a file system with quotas."""
    changes = {
        "sft.batch_tokens": 48,
        "ppo.critic.pretraining_iterations": 0,
        "ppo.keep": "last",
        "ppo.keep_checkpoint": False,
        f"{stage}.checkpoint_every": checkpoint_every,
    }
    write_settings(workspace, tiny_settings(changes))
    before = tree_of(workspace.root / "models")
    worker = Worker(stage, workspace.root, Harm(file_bytes=150_000))
    assert worker.code() == 1
    assert "Traceback" not in worker.log()
    assert f"error: {place}" in worker.log() and "File too large" in worker.log()
    # the model that was there is as it was
    assert tree_of(workspace.root / "models") == before
    assert half_written(workspace.root) == [] and not workspace.metrics(stage).exists()


# -- the clock ------------------------------------------------------------------------------------


def jump_by_days() -> None:
    """From now on each look at the clock is days before or behind the one before."""
    days = itertools.cycle((0, 3, -5, 400))
    look = time.time
    time.time = lambda: look() + 86400.0 * next(days)


@pytest.mark.parametrize(("stage", "model"), [("sft", "sft"), ("ppo", "policy")])
def test_a_clock_that_jumps_moves_no_number(
    workspace: Workspace, tmp_path: Path, stage: str, model: str
) -> None:
    write_settings(workspace, tiny_settings())
    other = copy_workspace(workspace, tmp_path / "other")
    jumping = Worker(stage, workspace.root, prepare=jump_by_days)
    steady = Worker(stage, other.root)
    assert jumping.code() == steady.code() == 0, jumping.log()
    assert outcome(workspace, stage, model) == outcome(other, stage, model)
    seconds = read_json(workspace.metrics(stage))["seconds"]
    assert 0 < seconds < 3600


# -- the user -----------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_worker_leaves_its_checkpoint_and_nothing_half_written(
    workspace: Workspace, signum: signal.Signals
) -> None:
    write_settings(workspace, tiny_settings(LONG))
    before = tree_of(workspace.root / "models")
    worker = Worker("sft", workspace.root)
    worker.interrupt_when(lambda: any(workspace.checkpoints.glob("sft/*/step-*")), signum)
    assert worker.code() == 130
    assert "Traceback" not in worker.log() and "interrupted" in worker.log()
    assert tree_of(workspace.root / "models") == before
    assert half_written(workspace.root) == [] and not workspace.metrics("sft").exists()
    assert list(workspace.checkpoints.glob("sft/*/step-*"))
