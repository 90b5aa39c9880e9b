"""The README of the rewards: its example is one file and one line, and scores beside the model."""

import json
from pathlib import Path

import pytest
from tiny import numbers, tiny_settings

from rlhf.registry import REWARDS
from rlhf.rewards.python import load_function
from rlhf.rewards.records import ResponseRecord
from rlhf.training import loop
from rlhf.workspace import Workspace
from tests.readme_examples import python_blocks, register
from tests.source_tree import ROOT

README = "rlhf/rewards/README.md"


def test_the_example_is_added_to_the_model_s_score(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, source, line = python_blocks(README)
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


def test_the_function_of_ones_own_scores_records(tmp_path: Path) -> None:
    own, *_ = python_blocks(README)
    (tmp_path / "rewards.py").write_text(own, encoding="utf-8")
    function = load_function(tmp_path / "rewards.py", "politeness", "reward")
    records = [
        ResponseRecord("Hi", [], response, None, "other", True, 3)
        for response in ("Sit down, Please.", "Sit!")
    ]
    assert function(records) == [1.0, 0.0]
    assert function.score_std == 0.5  # type: ignore[attr-defined]


def test_every_kind_is_in_the_table() -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    assert [kind for kind in REWARDS if f"| `{kind}" not in text] == []
