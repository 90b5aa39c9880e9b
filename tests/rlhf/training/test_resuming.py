"""A run that was killed and started again ends with the same numbers, to the last bit of the weights."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import copy_workspace, outcome, tiny_settings, write_settings
from workers import Harm, Worker, half_written

from rlhf.batches.tables import read_table, write_table
from rlhf.settings import Settings
from rlhf.training import loop, reward, sft
from rlhf.workspace import Workspace

STAGES: dict[str, Callable[[Settings, Workspace], None]] = {
    "sft": sft.train,
    "reward": reward.train,
    "ppo": loop.train,
}
MODELS = {"sft": "sft", "reward": "reward", "ppo": "policy"}
CHANGES: dict[str, Any] = {
    "sft.batch_tokens": 32, "sft.epochs": 2.0, "sft.checkpoint_every": 3, "sft.evaluate_every": 2,
    "reward.batch_tokens": 80, "reward.checkpoint_every": 3, "reward.evaluate_every": 2,
    "ppo.epochs": 2, "ppo.critic.pretraining_iterations": 2, "ppo.sampling.temperature": 0.9,
}  # fmt: skip
KILLS = [
    ("sft", 5),
    ("reward", 7),
    ("ppo", 0),
    ("ppo", 3),
]  # after the last checkpoint before, 3, 6, 0 and 2


@pytest.fixture(scope="module")
def whole(
    prepared: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What each stage writes if nothing happens to it."""
    found = {}
    for stage, train in STAGES.items():
        workspace = copy_workspace(prepared, tmp_path_factory.mktemp(stage))
        train(tiny_settings(CHANGES), workspace)
        found[stage] = outcome(workspace, stage, MODELS[stage])
    return found


def kill(workspace: Workspace, stage: str, step: int, settings: Settings) -> None:
    """Run a worker that is killed when it has logged `step`; then remove outputs, as DVC does before a stage."""
    write_settings(workspace, settings)
    worker = Worker(stage, workspace.root, Harm(step=step))
    assert worker.code() == -9, worker.said()
    assert list(workspace.checkpoints.glob(f"{stage}/*/step-*")), worker.said()
    shutil.rmtree(workspace.root / "metrics")


@pytest.mark.parametrize(("stage", "step"), KILLS)
def test_resumed_equals_uninterrupted(
    workspace: Workspace,
    whole: dict[str, dict[str, Any]],
    stage: str,
    step: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill(workspace, stage, step, tiny_settings(CHANGES))
    assert half_written(workspace.root) == []
    # settings that do not bear on the stage may change in between
    with caplog.at_level(logging.INFO, logger="rlhf"):
        STAGES[stage](
            tiny_settings(CHANGES | {"report.dialogues": 3, "experiment": "other"}), workspace
        )
    assert "resuming from" in caplog.text
    assert outcome(workspace, stage, MODELS[stage]) == whole[stage]
    assert len(workspace.finished_checkpoints(but="")) == 1


def test_a_run_killed_twice_still_ends_the_same(
    workspace: Workspace, whole: dict[str, dict[str, Any]]
) -> None:
    for step in (4, 8):
        kill(workspace, "sft", step, tiny_settings(CHANGES))
    sft.train(tiny_settings(CHANGES), workspace)
    assert outcome(workspace, "sft", "sft") == whole["sft"]


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    workspace: Workspace, whole: dict[str, dict[str, Any]]
) -> None:
    """The step log that it leaves, cut off in the middle, is not taken over."""
    workspace.steps("sft").parent.mkdir()
    workspace.steps("sft").write_text('{"step": 0, "validation_loss": 9.0}\n{"step": 1, "tra')
    sft.train(tiny_settings(CHANGES), workspace)
    assert outcome(workspace, "sft", "sft") == whole["sft"]


@pytest.fixture(scope="module")
def killed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An sft run that got as far as step 4; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("killed"))
    kill(workspace, "sft", 4, tiny_settings(CHANGES))
    return workspace


@pytest.mark.parametrize(
    "change",
    [{"sft.optimizer.learning_rate": 2e-3}, {"seed": 2}, {"data.max_prompt_tokens": 63}],
    ids=lambda c: next(iter(c)),
)
def test_changed_settings_do_not_resume(
    killed: Workspace,
    prepared: Workspace,
    tmp_path: Path,
    change: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    again, fresh = (
        copy_workspace(killed, tmp_path / "again"),
        copy_workspace(prepared, tmp_path / "fresh"),
    )
    with caplog.at_level(logging.INFO, logger="rlhf"):
        for workspace in (again, fresh):
            sft.train(tiny_settings(CHANGES | change), workspace)
    assert "resuming" not in caplog.text
    assert outcome(again, "sft", "sft") == outcome(fresh, "sft", "sft")


def test_changed_data_do_not_resume(
    killed: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = copy_workspace(killed, tmp_path / "again")
    rows = read_table(workspace, "sft").to_dict("records")
    write_table(workspace.prepared, "sft", rows[::-1])
    with caplog.at_level(logging.INFO, logger="rlhf"):
        sft.train(tiny_settings(CHANGES), workspace)
    assert "resuming" not in caplog.text


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_same_run_twice_gives_the_same_files(
    workspace: Workspace, whole: dict[str, dict[str, Any]], stage: str
) -> None:
    STAGES[stage](tiny_settings(CHANGES), workspace)
    assert outcome(workspace, stage, MODELS[stage]) == whole[stage]
    assert len(workspace.finished_checkpoints(but="")) == 1
