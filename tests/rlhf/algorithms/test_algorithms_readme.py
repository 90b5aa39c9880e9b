"""The README of the algorithms: its example is one file and one line, and learns."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_settings

from rlhf.registry import ALGORITHMS
from rlhf.training import loop
from rlhf.workspace import Workspace
from tests.readme_examples import python_blocks, register
from tests.source_tree import ROOT

README = "rlhf/algorithms/README.md"


def test_the_example_trains_a_policy(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, line, _ = python_blocks(README)
    name = register(monkeypatch, ALGORITHMS, source, line, tmp_path)
    changes = {"ppo.algorithm": name, "ppo.mini_batch": 8, "ppo.micro_batch": 8}
    loop.train(tiny_settings(changes), workspace)
    summary = json.loads(workspace.metrics("ppo").read_text())
    assert summary["iterations"] == 4
    assert summary["kl_last"] != 0.0
    assert (workspace.model("policy") / "model.safetensors").is_file()


def test_the_examples_test_passes(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, line, test = python_blocks(README)
    register(monkeypatch, ALGORITHMS, source, line, tmp_path)
    names: dict[str, Any] = {}
    exec(test, names)
    names["test_advantages_are_rewards_to_go_less_their_mean"](prepared)


def test_every_algorithm_and_file_is_named() -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    for name, place in ALGORITHMS.items():
        file = place.partition(":")[0].rpartition(".")[2]
        assert f"`{name}`" in text and f"`{file}.py`" in text
