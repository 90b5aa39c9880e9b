"""What `flows.study` writes before DVC runs: which figures and seeds, and when."""

import logging
from pathlib import Path
from typing import Any

import pytest

from flows import study
from tests.source_tree import ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of a clone DVC needs to see."""
    for name in ("dvc.yaml", ".dvcignore", "requirements.lock", "rlhf", ".dvc/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_nothing_is_written_before_the_workspace_is_this_studys_own(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = clone / "studies" / "tiny" / "dvc.yaml"
    seen = []

    def repro(root: Path, *_: object, prepare: Any) -> None:
        seen.append(laid_out.exists())
        prepare()
        seen.append(laid_out.exists() and root.resolve() == laid_out.parent.resolve())

    monkeypatch.chdir(clone)
    monkeypatch.setattr(study, "repro", repro)
    monkeypatch.setattr(study, "get_run_logger", lambda: logging.getLogger("study"))
    study.run_study.fn(["fig9"], "tiny", [1], {})
    assert seen == [False, True]
