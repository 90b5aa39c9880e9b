"""The README of the rewards: its example is one file and one line, and scores beside the model."""

import json
from pathlib import Path

import pytest
from tiny import numbers, tiny_settings

from rlhf.registry import REWARDS
from rlhf.training import loop
from rlhf.workspace import Workspace
from tests.readme_examples import python_blocks, register

README = "rlhf/rewards/README.md"


def test_the_example_is_added_to_the_model_s_score(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, line = python_blocks(README)
    register(monkeypatch, REWARDS, source, line, tmp_path)
    rows = {}
    for rewards in (["model:reward"], ["model:reward", "ends:2.0"]):
        loop.train(tiny_settings({"ppo.rewards": rewards, "ppo.iterations": 1}), workspace)
        rows[len(rewards)] = numbers(workspace.steps("ppo"))[0]
    # the same rollout: nothing was learnt yet
    unfinished = 1 - rows[1]["finished"]
    assert unfinished > 0
    assert rows[2]["reward"] == pytest.approx(rows[1]["reward"] - 2.0 * unfinished, abs=1e-6)
    assert json.loads(workspace.metrics("ppo").read_text())["iterations"] == 1
