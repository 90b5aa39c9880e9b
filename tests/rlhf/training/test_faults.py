"""What a stage does when numbers, disk or the user put an end to it: a message, no traceback, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny import tiny_settings, tree_of, write_settings
from workers import Harm, Worker, half_written

from rlhf.batches.tables import read_table
from rlhf.common.errors import TrainingError
from rlhf.training import loop, reward, sft
from rlhf.workspace import Workspace

LONG = {"sft.epochs": 2000.0, "sft.checkpoint_every": 2, "sft.batch_tokens": 48}


# -- numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "model", "step"),
    [("sft", "sft", 2), ("reward", "gold", 2), ("ppo", "policy", 0)],
    ids=["sft", "gold", "ppo"],
)
def test_a_loss_that_is_not_finite_stops_the_run_with_its_batch_saved(
    workspace: Workspace, stage: str, model: str, step: int
) -> None:
    name = "gold" if stage == "reward" else stage
    changes: dict[str, Any] = {
        f"{name}.optimizer.learning_rate": 1e30,
        "sft.batch_tokens": 48,
        "gold.batch_tokens": 128,
    }
    run: dict[str, Callable[[], None]] = {
        "sft": lambda: sft.train(tiny_settings(changes), workspace),
        "reward": lambda: reward.train(tiny_settings(changes), workspace, "gold"),
        "ppo": lambda: loop.train(tiny_settings(changes), workspace),
    }
    shutil.rmtree(workspace.model(model), ignore_errors=True)
    with pytest.raises(
        TrainingError,
        match=rf"{name}, step {step}: (loss|gradient norm) is .*\.failures/{name}-step-{step}",
    ):
        run[stage]()
    assert not workspace.model(model).exists() and not workspace.metrics(name).exists()
    assert half_written(workspace.root) == []
    evidence = json.loads(
        (workspace.root / ".failures" / f"{name}-step-{step}.rank-0.json").read_text()
    )
    assert (evidence["stage"], evidence["step"]) == (name, step)
    if stage == "ppo":
        assert evidence["batch"]["trainer"] == "policy" and len(evidence["batch"]["input_ids"]) == 4
    else:
        table = read_table(
            workspace,
            "sft" if stage == "sft" else "preferences",
            split="train" if stage == "sft" else "gold",
        )
        assert evidence["batch"]["rows"] and set(evidence["batch"]["rows"]) < set(table["id"])


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
    with pytest.raises(
        TrainingError, match=r"ppo, step -1: loss is nan.*\.failures/ppo-step--1\.rank-0\.json"
    ):
        loop.train(tiny_settings(), workspace)
    assert not workspace.model("policy").exists()
    evidence = json.loads((workspace.root / ".failures" / "ppo-step--1.rank-0.json").read_text())
    assert "nan" in evidence["batch"]["advantages"][0]


# -- disk ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 500 KB: room for the base model and half of another."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", place], check=False
    ).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


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
    assert "Traceback" not in worker.said()
    assert "error: models/sft: " in worker.said() and "No space left on device" in worker.said()
    assert sorted(path.name for path in small_disk.iterdir()) == ["base"]
    assert not workspace.metrics("sft").exists()


@pytest.mark.parametrize(
    ("stage", "checkpoint_every", "told"),
    [
        ("sft", 1000, "models/sft"),
        ("sft", 2, ".checkpoints/sft"),
        ("ppo", 1000, "models/policy"),
        ("ppo", 1, ".checkpoints/ppo"),
    ],
)
def test_a_file_that_cannot_grow_ends_the_run_with_its_name(
    workspace: Workspace, stage: str, checkpoint_every: int, told: str
) -> None:
    """As on a file system with quotas."""
    changes = {"sft.batch_tokens": 48, "ppo.critic.pretraining_iterations": 0, "ppo.keep": "last"}
    write_settings(
        workspace, tiny_settings(changes | {f"{stage}.checkpoint_every": checkpoint_every})
    )
    before = tree_of(workspace.root / "models")
    worker = Worker(stage, workspace.root, Harm(file_bytes=150_000))
    assert worker.code() == 1
    assert "Traceback" not in worker.said()
    assert f"error: {told}" in worker.said() and "File too large" in worker.said()
    assert tree_of(workspace.root / "models") == before  # the model that was there is whole still
    assert half_written(workspace.root) == [] and not workspace.metrics(stage).exists()


# -- the user -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_worker_leaves_its_checkpoint_and_nothing_half_written(
    workspace: Workspace, signum: signal.Signals
) -> None:
    write_settings(workspace, tiny_settings(LONG))
    before = tree_of(workspace.root / "models")
    worker = Worker("sft", workspace.root)
    worker.interrupt_when(lambda: any(workspace.checkpoints.glob("sft/*/step-*")), signum)
    assert worker.code() == 130
    assert "Traceback" not in worker.said() and "interrupted" in worker.said()
    assert tree_of(workspace.root / "models") == before
    assert half_written(workspace.root) == [] and not workspace.metrics("sft").exists()
    assert list(workspace.checkpoints.glob("sft/*/step-*"))
