"""Where git cannot be used that is one line, and nothing was begun."""

import os
import shutil
from pathlib import Path

import pytest

from rlhf.common.errors import RlhfError
from tasks.repository import refuse_unusable_repository
from tasks.repro import repro
from tests.project_copy import Project


def test_a_zip_download_is_told_to_make_a_repository(repository: Project) -> None:
    refuse_unusable_repository(repository.root)
    shutil.rmtree(repository.root / ".git")
    with pytest.raises(RlhfError, match=r"no git repository.*`git init`$") as told:
        repro(repository.root, [], {}, print)
    assert "\n" not in str(told.value)
    assert not (repository.root / ".dvc" / "tmp").exists()
    assert not (repository.root / "begun").exists()
    repository.run("git", "init", "--quiet")
    repro(repository.root, [], {}, print)
    assert (repository.root / "two.txt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_repository_of_another_user_is_told_how_to_trust_it(
    repository: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (repository.root, repository.root / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(RlhfError, match=r"another user.*--add safe\.directory /") as told:
        repro(repository.root, [], {}, print)
    assert "\n" not in str(told.value)
    repository.run("git", "config", "--global", "--add", "safe.directory", str(repository.root))
    refuse_unusable_repository(repository.root)


def test_a_machine_without_git_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RlhfError, match="git is not installed"):
        refuse_unusable_repository(tmp_path)
