"""What a stage refuses when it begins."""

from pathlib import Path

import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.settings import preset_text
from rlhf.settings.edit import changed
from tasks.steps import check_inputs
from tests.source_tree import ROOT


@pytest.mark.parametrize("stage", ["fetch", "ppo"])
@pytest.mark.parametrize(
    ("rewards", "missing"),
    [
        (["python:tests/own_rewards/sums.py:words"], r"tests/own_rewards/sums\.py"),
        (["hf:DIRECTORY"], r"rlhf/models/classifier\.py"),
    ],
)
def test_each_stage_looks_at_the_code_of_all(
    tmp_path: Path, stage: str, rewards: list[str], missing: str
) -> None:
    """A reward that `make dvc.yaml` has not linked is told by fetch, not when ppo begins."""
    content = parse_yaml(preset_text("tiny"), "tiny")
    settings = changed(content, {"ppo.rewards": rewards})
    (tmp_path / "params.yaml").write_text(write_yaml(settings))
    (tmp_path / "dvc.yaml").write_text(write_yaml(read_yaml(ROOT / "dvc.yaml")))
    with pytest.raises(SettingsError, match=rf"^dvc\.yaml: ppo runs .*{missing}.*`make dvc\.yaml`"):
        check_inputs.fn(stage, tmp_path)
