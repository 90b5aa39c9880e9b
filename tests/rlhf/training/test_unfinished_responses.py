"""That most responses run into the limit is told, and may cost something."""

from pathlib import Path
from typing import Any

import pytest
from tiny import copy_workspace, tiny_settings

from rlhf.core.steps import read_steps
from rlhf.training import loop
from rlhf.workspace import Workspace


def first_row(prepared: Workspace, folder: Path, rewards: list[Any]) -> dict[str, Any]:
    """The first iteration, whose responses are those of a policy that has not learnt yet."""
    workspace = copy_workspace(prepared, folder)
    changes = {"ppo.rewards": rewards, "ppo.max_response_tokens": 4, "ppo.iterations": 1}
    loop.train(tiny_settings(changes), workspace)
    return next(row for row in read_steps(workspace.steps("ppo")) if row["step"] == 0)


def test_few_ends_are_told_once_and_what_they_cost_is_paid(
    prepared: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = first_row(prepared, tmp_path / "plain", ["model:reward"])
    assert 0 <= plain["finished"] < 0.5
    (told,) = [line for line in caplog.messages if "end by themselves" in line]
    assert f"{100 * plain['finished']:.0f} % of the responses" in told
    assert "missing-end" in told and "max_response_tokens" in told

    penalty = {"reward": "missing-end", "weight": 3.0}
    subtracted = first_row(prepared, tmp_path / "off", ["model:reward", penalty])
    assert subtracted["finished"] == plain["finished"]
    expected = plain["reward"] - 3.0 * (1 - plain["finished"])
    assert subtracted["reward"] == pytest.approx(expected, abs=1e-5)
