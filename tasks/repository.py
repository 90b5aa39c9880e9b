"""Whether git can be used where the chain is to run: told in one line, before any work."""

import os
import subprocess
from pathlib import Path

from rlhf.common.errors import RlhfError


def refuse_unusable_repository(root: Path) -> None:
    """Raise RlhfError where git is missing, `root` is in no repository, or in another user's."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--git-dir"],
            # a study is laid out later
            cwd=next(folder for folder in (root, *root.resolve().parents) if folder.exists()),
            capture_output=True,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise RlhfError("git is not installed; DVC and the records of runs need it") from None
    if found.returncode == 0:
        return
    place = root.resolve()
    if "dubious ownership" in found.stderr:
        raise RlhfError(
            f"{place} belongs to another user, so git does not open it; "
            f"`git config --global --add safe.directory {place}` trusts it"
        )
    raise RlhfError(
        f"{place} is no git repository, as after the download of a ZIP; DVC needs one: `git init`"
    )
