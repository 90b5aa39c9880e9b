"""One stage on another machine: what its clone brings and gives back, and how its caller takes it over.

Code goes by git (a commit), data, models and metrics by DVC's remote, settings and `dvc.lock` as text.
The two clones may lie anywhere. In the end the caller's `dvc.lock` has the entry that the stage would
have written here.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from rlhf.common.errors import RlhfError
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.workspace import Workspace
from tasks.lineage import git_state
from tasks.process import OnLine
from tasks.repro import repro

# changed from run to run, and sent as text
_SENT = ("params.yaml", "dvc.lock")


@dataclass(frozen=True)
class Order:
    """What a stage elsewhere is made from.

    params, lock: the texts of params.yaml and dvc.lock
    """

    stage: str
    commit: str
    params: str
    lock: str


# -- in the caller's clone ---------------------------------------------------------------------------


def place_order(root: Path, stage: str) -> Order:
    """Push what a stage reads, and say what it is made from; its inputs are up to date.

    Raises RlhfError where code is not committed: git brings it to the other clone.
    """
    commit, _ = git_state(root)
    changed = _changed_code(root)
    if changed:
        raise RlhfError(
            f"{', '.join(changed)}: changed since the last commit; a worker gets the code from git, "
            "so commit and push it first"
        )
    _with_remote(root, lambda repo: repo.push(targets=_inputs(repo, stage)))
    workspace = Workspace(root)
    lock = root / "dvc.lock"
    return Order(
        stage,
        commit,
        workspace.params.read_text(encoding="utf-8"),
        lock.read_text(encoding="utf-8") if lock.is_file() else "",
    )


def take_over(root: Path, stage: str, entry: str) -> None:
    """Write a stage's entry of dvc.lock, as the other clone gave it, and pull what it stands for."""
    path = root / "dvc.lock"
    lock: Any = read_yaml(path) if path.is_file() else {"schema": "2.0", "stages": {}}
    lock["stages"][stage] = parse_yaml(entry, f"dvc.lock of {stage}")
    write_text(path, write_yaml(lock))
    _with_remote(root, lambda repo: repo.pull(targets=[stage], force=True))


def is_stale(root: Path, stage: str) -> bool:
    """Whether DVC would run a stage, all that it needs being up to date."""
    with Repo(str(root)) as repo:
        return bool(repo.status(targets=[stage]))


def needed_stages(root: Path, targets: list[str]) -> list[str]:
    """List the stages that the targets consist of and need, in the order in which they run."""
    with Repo(str(root)) as repo:
        if not targets:
            return [stage.name for stage in repo.index.stages]
        found: list[str] = []
        for target in targets:
            found += [stage.name for stage in repo.stage.collect(target, with_deps=True)]
    return list(dict.fromkeys(found))


def stages_before(root: Path, stage: str) -> list[str]:
    """List the stages that a stage needs."""
    return [name for name in needed_stages(root, [stage]) if name != stage]


def _changed_code(root: Path) -> list[str]:
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    paths = [line[3:].strip('"') for line in status.splitlines()]
    return [path for path in paths if path not in _SENT]


# -- in the clone of the worker ----------------------------------------------------------------------


def fill_order(root: Path, order: Order, on_line: OnLine) -> str:
    """Run an order here: gives the stage's entry of dvc.lock, whose bytes are in DVC's remote then."""
    check_out(root, order.commit)
    write_text(Workspace(root).params, order.params)
    write_text(root / "dvc.lock", order.lock)
    _with_remote(root, lambda repo: repo.pull(targets=_inputs(repo, order.stage), force=True))
    repro(root, ["--single-item", order.stage], {}, on_line)
    _with_remote(root, lambda repo: repo.push(targets=[order.stage]))
    entry = read_yaml(root / "dvc.lock")["stages"][order.stage]
    return write_yaml(entry)


def check_out(root: Path, commit: str) -> None:
    """Bring a clone to a commit, out of its remotes where it is not there; raises RlhfError."""
    if _git(root, "rev-parse", "HEAD").strip() == commit:
        return
    changed = _changed_code(root)
    if changed:
        raise RlhfError(
            f"{root.resolve()}: {', '.join(changed)} changed here; a worker's clone is for runs alone"
        )
    if not _knows(root, commit):
        _git(root, "fetch", "--all", "--quiet")
    if not _knows(root, commit):
        raise RlhfError(
            f"commit {commit[:12]} is in none of the remotes of {root.resolve()}: push it first"
        )
    # settings and lock file come with the order
    _git(root, "checkout", "--quiet", "--force", "--detach", commit)


def _knows(root: Path, commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode == 0


# -- both ---------------------------------------------------------------------------------------------


def _inputs(repo: Repo, stage: str) -> list[str]:
    """The paths that a stage reads and another one writes: what DVC's remote has to bring."""
    (found,) = repo.stage.collect(stage)
    written = {output.fs_path for other in repo.index.stages for output in other.outs}
    return [str(dep.def_path) for dep in found.deps if dep.fs_path in written]


def _with_remote(root: Path, work: Callable[[Repo], Any]) -> None:
    """Do something with DVC's default remote; raises RlhfError where there is none or it fails."""
    try:
        with Repo(str(root)) as repo:
            work(repo)
    except DvcException as error:
        raise RlhfError(
            f"DVC's remote: {error}. Both clones need the same one: dvc remote add --default NAME URL"
        ) from None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False, env=_quiet()
    )
    if done.returncode:
        raise RlhfError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _quiet() -> Mapping[str, str]:
    # or git would wait for a password that nobody types
    return os.environ | {"GIT_TERMINAL_PROMPT": "0"}
