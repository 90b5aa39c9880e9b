"""The README of the rollouts: its example is one file and one line, and samples the model."""

import json
from pathlib import Path

import pytest
from tiny import numbers, tiny_settings

from rlhf.registry import SAMPLERS
from rlhf.training import loop
from rlhf.workspace import Workspace
from tests.readme_examples import python_blocks, register

README = "rlhf/rollout/README.md"


def test_the_example_samples_the_policy_itself(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, line = python_blocks(README)
    name = register(monkeypatch, SAMPLERS, source, line, tmp_path)
    sampling = {"temperature": 0.8, "sampler": name}
    loop.train(tiny_settings({"ppo.sampling": sampling, "ppo.iterations": 2}), workspace)
    rows = [row for row in numbers(workspace.steps("ppo")) if "reward" in row]
    # the log-probabilities that it gives are those of the model
    assert all(row["sampler_logprob_gap"] < 1e-5 for row in rows)
    assert json.loads(workspace.metrics("ppo").read_text())["iterations"] == 2
