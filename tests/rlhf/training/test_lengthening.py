"""A finished policy run whose iterations are raised goes on from its end."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from neighbours import AIHF, ETPO, xpo
from tiny import copy_workspace, outcome, tiny_settings, write_settings
from workers import Harm, Worker

from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.settings import Settings
from rlhf.training import loop, sft
from rlhf.training.lengthening import schedules_of_length
from rlhf.workspace import Workspace

CONSTANT = {"warmup_fraction": 0.0, "decay": "constant"}
PPO = {"ppo.epochs": 2, "ppo.sampling.temperature": 0.9}


def settings(
    iterations: int, changes: Mapping[str, Any] = PPO, schedule: Mapping[str, Any] = CONSTANT
) -> Settings:
    """Settings in which every optimizer of the policy's has a schedule."""
    content = {**changes, "ppo.iterations": iterations}
    optimizers = list(schedules_of_length(tiny_settings({**changes}).ppo))
    content |= {f"{path}.{key}": value for path in optimizers for key, value in schedule.items()}
    return tiny_settings(content)


def without_outputs(workspace: Workspace) -> Workspace:
    """DVC removes what a stage writes before it runs it again."""
    shutil.rmtree(workspace.root / "metrics")
    shutil.rmtree(workspace.model("policy"))
    return workspace


def trained(prepared: Workspace, folder: Path, *lengths: Settings) -> Workspace:
    """A workspace in which the policy was trained under these settings in turn."""
    workspace = copy_workspace(prepared, folder)
    for number, section in enumerate(lengths):
        if number:
            without_outputs(workspace)
        loop.train(section, workspace)
    return workspace


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(PPO, id="ppo-max"),
        pytest.param(xpo(), id="xpo", marks=pytest.mark.long),
        pytest.param(ETPO, id="etpo", marks=pytest.mark.long),
        pytest.param(AIHF, id="aihf", marks=pytest.mark.long),
    ],
)
def test_a_lengthened_run_equals_one_that_was_as_long_from_the_start(
    prepared: Workspace,
    tmp_path: Path,
    changes: Mapping[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="rlhf"):
        longer = trained(prepared, tmp_path / "longer", settings(3, changes), settings(5, changes))
    assert "ppo goes on at iteration 3: it was asked for 3, now for 5" in caplog.text
    assert "no learning rate depends on it" in caplog.text
    whole = trained(prepared, tmp_path / "whole", settings(5, changes))
    assert outcome(longer, "ppo", "policy") == outcome(whole, "ppo", "policy")


@pytest.mark.long
def test_lengthened_twice_and_killed_in_between_it_still_does(
    prepared: Workspace, tmp_path: Path
) -> None:
    workspace = trained(prepared, tmp_path / "longer", settings(1), settings(2))
    without_outputs(workspace)
    write_settings(workspace, settings(6))
    worker = Worker("ppo", workspace.root, Harm(step=4))
    assert worker.code() == -9, worker.log()
    # it is in progress again, and nobody may take its checkpoint away
    assert len(workspace.unfinished_checkpoints("ppo")) == 1
    shutil.rmtree(workspace.root / "metrics")
    loop.train(settings(6), workspace)
    whole = trained(prepared, tmp_path / "whole", settings(6))
    assert outcome(workspace, "ppo", "policy") == outcome(whole, "ppo", "policy")


@pytest.mark.long
@pytest.mark.parametrize(
    "schedule",
    [
        {"warmup_fraction": 0.0, "decay": "cosine", "final_fraction": 0.1},
        {"warmup_fraction": 0.5, "decay": "constant"},
    ],
)
def test_where_the_schedule_follows_the_length_that_is_told(
    prepared: Workspace,
    tmp_path: Path,
    schedule: Mapping[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = settings(2, schedule=schedule), settings(4, schedule=schedule)
    with caplog.at_level(logging.INFO, logger="rlhf"):
        workspace = trained(prepared, tmp_path / "longer", first, second)
    assert "the learning rates of ppo.optimizer, ppo.critic.optimizer" in caplog.text
    assert read_json(workspace.metrics("ppo"))["lengthened_from"] == 2
    # from where it goes on the rate is that of the whole length
    whole = trained(prepared, tmp_path / "whole", second)
    assert "lengthened_from" not in read_json(whole.metrics("ppo"))
    rates = [
        {row["step"]: row.get("policy_learning_rate") for row in read_steps(one.steps("ppo"))}
        for one in (workspace, whole)
    ]
    assert [rates[0][step] == rates[1][step] for step in (1, 2, 3)] == [False, True, True]


@pytest.mark.long
def test_a_shorter_run_begins_anew_and_equals_one_in_a_fresh_workspace(
    prepared: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="rlhf"):
        shorter = trained(prepared, tmp_path / "shorter", settings(5), settings(3))
    assert "lies beyond step 3, the last one asked for: begins anew" in caplog.text
    whole = trained(prepared, tmp_path / "whole", settings(3))
    assert outcome(shorter, "ppo", "policy") == outcome(whole, "ppo", "policy")


def test_a_run_that_begins_anew_names_the_setting_that_differs(
    prepared: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colder = settings(4, {**PPO, "ppo.sampling.temperature": 0.8})
    with caplog.at_level(logging.INFO, logger="rlhf"):
        workspace = trained(prepared, tmp_path / "w", settings(2), colder)
    told = [line for line in caplog.messages if "begins anew" in line]
    assert len(told) == 1
    assert told[0].endswith("was made with other settings: ppo.sampling.temperature (0.9, now 0.8)")
    # the last finished run alone may be lengthened
    kept = list(workspace.checkpoints.glob("ppo/*/kept"))
    assert len(kept) == len(list(workspace.checkpoints.glob("ppo/*"))) == 1


def test_checkpoints_of_a_run_that_may_go_on_outlive_later_stages_unless_they_are_not_wanted(
    prepared: Workspace, tmp_path: Path
) -> None:
    kept = trained(prepared, tmp_path / "kept", settings(2))
    assert kept.finished_checkpoints(but="gold") == []
    assert kept.unfinished_checkpoints("ppo") == []
    spare = settings(3, {**PPO, "ppo.keep_checkpoint": False})
    spared = trained(prepared, tmp_path / "spared", spare)
    assert len(spared.finished_checkpoints(but="gold")) == 1
    assert outcome(spared, "ppo", "policy") == outcome(
        trained(prepared, tmp_path / "other", settings(3)), "ppo", "policy"
    )


def test_no_other_stage_is_lengthened(
    prepared: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its plan of batches and its schedule are of all its epochs; it begins anew, and says why."""
    workspace = copy_workspace(prepared, tmp_path / "w")
    changes = {"sft.batch_tokens": 32, "sft.checkpoint_every": 3}
    sft.train(tiny_settings({**changes, "sft.epochs": 1.0}), workspace)
    with caplog.at_level(logging.INFO, logger="rlhf"):
        sft.train(tiny_settings({**changes, "sft.epochs": 2.0}), workspace)
    assert "settings: sft.epochs (1.0, now 2.0)" in caplog.text
