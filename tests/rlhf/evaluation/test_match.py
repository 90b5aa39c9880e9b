"""Two model directories against each other: laid out as a workspace, with the figures in structure and flat."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from rlhf.common.errors import ModelError
from rlhf.common.files import read_json
from rlhf.evaluation.match import run_match
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def test_a_match_has_one_comparison_by_the_first_judge(
    trained: Path, settings: Settings, tmp_path: Path
) -> None:
    """The challenger's directory has a `$` in its name, which in an address begins a variable."""
    workspace, output = Workspace(trained), Workspace(tmp_path / "output")
    challenger = tmp_path / "policy$1"
    shutil.copytree(workspace.model("policy"), challenger)
    section = settings.evaluate.model_copy(update={"judges": ("rules", "gold")})
    several = settings.model_copy(update={"evaluate": section})
    run_match(several, workspace, challenger, workspace.model("sft"), output.root)

    table = pd.read_parquet(output.comparisons)
    assert len(table) == 10 and set(table["judge"]) == {"rules"}
    details, flat = read_json(output.details("evaluate")), read_json(output.metrics("evaluate"))
    (comparison,) = details["comparisons"]
    assert (comparison["challenger"], comparison["baseline"]) == ("challenger", "baseline")
    assert flat["compared"] == "challenger with baseline" and flat["judge"] == "rules"
    assert comparison["metrics"]["win_rate"] == flat["win_rate"]
    assert flat["win"] == pytest.approx((table["verdict"] == "win").mean())


def test_a_match_that_fails_leaves_nothing(
    trained: Path, settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace(trained)
    with pytest.raises(ModelError):
        run_match(
            settings, workspace, tmp_path / "none", workspace.model("sft"), tmp_path / "output"
        )
    assert not (tmp_path / "output").exists()
