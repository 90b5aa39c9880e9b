from pathlib import Path

import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import read_yaml
from rlhf.settings import load_settings
from tasks.seeds import SeedRun, lay_out_seed
from tests.source_tree import ROOT

RUN = SeedRun("tiny", "fp32", 7)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dvc.yaml", ".dvcignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def test_a_run_has_a_workspace_of_its_own_with_its_seed(root: Path) -> None:
    directory = lay_out_seed(root, RUN, {"ppo.iterations": 3})
    assert directory == root / "studies" / "tiny-fp32-seed-7"
    settings = load_settings(directory / "params.yaml")
    assert (settings.seed, settings.engine.precision, settings.ppo.iterations) == (7, "fp32", 3)
    stages = read_yaml(directory / "dvc.yaml")["stages"]
    assert {"prepare", "ppo", "evaluate"} <= stages.keys()
    assert "report" not in stages


def test_what_is_laid_out_again_unchanged_is_not_written(root: Path) -> None:
    directory = lay_out_seed(root, RUN, {})
    files = [directory / name for name in ("params.yaml", "dvc.yaml")]
    before = [path.stat().st_mtime_ns for path in files]
    lay_out_seed(root, RUN, {})
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_setting_that_there_is_not_is_refused(root: Path) -> None:
    with pytest.raises(SettingsError, match=r"ppo\.iteration"):
        lay_out_seed(root, RUN, {"ppo.iteration": 3})
    assert not (root / "studies").exists()


@pytest.mark.parametrize("key", ["seed", "engine.precision"])
def test_what_each_run_has_of_its_own_is_not_set_for_all(root: Path, key: str) -> None:
    with pytest.raises(SettingsError, match=rf"{key}: set for each run by --first-seed"):
        lay_out_seed(root, RUN, {key: 3})
    assert not (root / "studies").exists()
