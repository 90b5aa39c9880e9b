"""A stage on another machine: what its clone is given, and what comes back.

Code goes by git (a commit), data, models and metrics by DVC's remote, settings and `dvc.lock` as text.
The two clones may lie anywhere. In the end the caller's `dvc.lock` has the entry that the stage would
have written there.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from dvc.stage import PipelineStage
from dvc.utils.serialize import modify_yaml

from rlhf.commands.package_checks import pins_check
from rlhf.common.errors import RlhfError
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.workspace import Workspace
from tasks.lineage import outputs_read_through
from tasks.missed import deliver
from tasks.process import OnLine
from tasks.repro import ReproFailed, dvc_repro, workspace_held
from tasks.steps import LOGS
from tasks.tracking import first_line

LOCK = "dvc.lock"
# changed from run to run, and sent as text
_SENT = ("params.yaml", LOCK)
# a file here may be run although git does not know it
_CODE = ("flows", "tasks", "rlhf")
_ADD_REMOTE = "Both clones need the same one: dvc remote add --default NAME URL"


@dataclass(frozen=True)
class Order:
    """What a stage on another machine is made from.

    params, lock: the texts of params.yaml and dvc.lock; no lock: ""
    """

    stage: str
    commit: str
    params: str
    lock: str


# -- in the caller's clone ---------------------------------------------------------------------------


def needed_stages(root: Path, targets: list[str]) -> list[str]:
    """List the stages that the targets consist of and need, in an order in which they can run."""
    with Repo(str(root)) as repo:
        wanted = [
            stage for target in targets for stage in repo.stage.collect(_address(repo, target))
        ]
        plan = plan_repro(repo.index.graph, wanted or None)
        return [stage.name for stage in plan if isinstance(stage, PipelineStage)]


def stages_before(root: Path, stage: str) -> list[str]:
    """List the stages that a stage needs, in an order in which they can run."""
    return [name for name in needed_stages(root, [stage]) if name != stage]


def why_stale(root: Path, stage: str, *, with_needed: bool = False) -> str:
    """Say why DVC would run a stage, or one that it needs if asked to; "" where it would not."""
    with Repo(str(root)) as repo:
        status = repo.status(targets=[_address(repo, stage)], with_deps=with_needed)
    parts = []
    for reason in chain.from_iterable(status.values()):
        # {"changed deps": {path: what happened}}, or a plain word such as "always changed"
        details = reason.items() if isinstance(reason, dict) else [(reason, {})]
        parts += [f"{what}: {', '.join(paths)}" if paths else what for what, paths in details]
    return "; ".join(parts)


def refuse_unready(root: Path) -> None:
    """Raise RlhfError where a worker could not get what it needs from here: code or data."""
    changed = changed_files(root)
    if changed:
        raise RlhfError(
            f"{', '.join(changed)}: not as in the last commit; a worker gets the code from git, "
            "so commit and push it first"
        )
    _refuse_unpushed(root)
    with Repo(str(root)) as repo:
        try:
            repo.cloud.get_remote()
        except DvcException as error:
            raise RlhfError(f"DVC: {first_line(error)}. {_ADD_REMOTE}") from None


def _refuse_unpushed(root: Path) -> None:
    """Raise RlhfError where the commit is on no branch of a remote, as far as this clone knows.

    Without any remote a worker's clone may have been made from this one, and fetches from it.
    """
    remotes = _git(root, "remote").split()
    if remotes and not _git(root, "branch", "--remotes", "--contains", "HEAD").strip():
        commit = _git(root, "rev-parse", "--short=12", "HEAD").strip()
        raise RlhfError(
            f"commit {commit} is on no branch of {', '.join(remotes)} that this clone knows of, and a "
            "worker gets the code from there: git push it first (git fetch, if it is there already)"
        )


def place_order(root: Path, stage: str) -> Order:
    """Push what a stage reads, and say what it is made from; its inputs are up to date.

    Raises RlhfError as `refuse_unready` does, ReproFailed where the remote cannot be reached.
    """
    refuse_unready(root)
    with_remote(root, lambda repo: _push(repo, _inputs(repo, stage)))
    lock = root / LOCK
    return Order(
        stage,
        _git(root, "rev-parse", "HEAD").strip(),
        Workspace(root).params.read_text(encoding="utf-8"),
        lock.read_text(encoding="utf-8") if lock.is_file() else "",
    )


def take_over(root: Path, stage: str, entry: str) -> None:
    """Write a stage's entry of dvc.lock, as the other clone gave it, and pull what it stands for.

    Leaves dvc.lock as it was and raises ReproFailed where the bytes cannot be had, RlhfError where
    the stage was made from something else than what is here.
    """
    lock = root / LOCK
    before = lock.read_text(encoding="utf-8") if lock.is_file() else None
    try:
        with Repo(str(root)) as repo, repo.lock, modify_yaml(str(lock)) as content:
            content.setdefault("schema", "2.0")
            content.setdefault("stages", {})[stage] = parse_yaml(entry, f"{LOCK} of {stage}")
        with_remote(root, lambda repo: _pull(repo, [_address(repo, stage)]))
        if reason := why_stale(root, stage):
            raise RlhfError(f"{stage} as the worker made it is not up to date here: {reason}")
    except BaseException:
        if before is None:
            lock.unlink(missing_ok=True)
        else:
            write_text(lock, before)
        raise


# -- in the clone of the worker ----------------------------------------------------------------------


def fill_order(root: Path, order: Order, on_line: OnLine) -> str:
    """Run an order here: gives the stage's entry of dvc.lock, whose bytes are in DVC's remote then."""
    with workspace_held(root, on_line):
        keep_copies(root, order, on_line)
        check_out(root, order.commit)
        tell_other_versions(root, on_line)
        write_text(Workspace(root).params, order.params)
        _write_lock(root, order.lock)
        with_remote(root, lambda repo: _pull(repo, _inputs(repo, order.stage)))
        dvc_repro(root, ["--single-item", order.stage], on_line)
        with_remote(root, lambda repo: _push(repo, [_address(repo, order.stage)]))
        # nobody looks after this clone later
        for problem in deliver(root, on_line):
            on_line(f"MLflow: not recorded: {problem}")
        return write_yaml(read_yaml(root / LOCK)["stages"][order.stage])


def keep_copies(root: Path, order: Order, on_line: OnLine) -> None:
    """Keep the settings and the lock file that an order replaces, in logs/."""
    for name, text in zip(_SENT, (order.params, order.lock), strict=True):
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") == text:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        kept = root / LOGS / f"{path.stem}-{digest}{path.suffix}"
        # the same ones come back again and again
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, kept)
            on_line(f"{name} is kept as {kept.relative_to(root)}")


def check_out(root: Path, commit: str) -> None:
    """Bring a clone to a commit, out of its remotes where it is not there; raises RlhfError."""
    changed = changed_files(root)
    if changed:
        raise RlhfError(
            f"{root.resolve()}: {', '.join(changed)} not as committed; a worker's clone is for runs alone"
        )
    if _git(root, "rev-parse", "HEAD").strip() == commit:
        return
    if not _knows(root, commit):
        _git(root, "fetch", "--all", "--quiet")
    if not _knows(root, commit):
        raise RlhfError(
            f"commit {commit[:12]} is in none of the remotes of {root.resolve()}: push it first"
        )
    # settings and lock file come with the order
    _git(root, "checkout", "--quiet", "--force", "--detach", commit)


def tell_other_versions(root: Path, on_line: OnLine) -> None:
    """Say where libraries here are others than the commit's, whose hash is in dvc.lock all the same."""
    check = pins_check(root / "requirements.lock")
    if check.state != "ok":
        on_line(f"warning: {check.found}; {check.advice}")


def _write_lock(root: Path, text: str) -> None:
    with Repo(str(root)) as repo, repo.lock:
        if text:
            write_text(root / LOCK, text)
        else:
            (root / LOCK).unlink(missing_ok=True)


def _knows(root: Path, commit: str) -> bool:
    with suppress(RlhfError):
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
        return True
    return False


# -- both ---------------------------------------------------------------------------------------------


def changed_files(root: Path) -> list[str]:
    """List what differs from the last commit, but for what is sent as text; new files only among code."""
    tracked = _git(root, "diff", "--name-only", "-z", "HEAD")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE)
    paths = filter(None, (tracked + new).split("\0"))
    return [path for path in paths if path not in _SENT]


def with_remote(root: Path, work: Callable[[Repo], Any]) -> None:
    """Do something with DVC's default remote; raises ReproFailed: a network may be there next time."""
    try:
        with Repo(str(root)) as repo:
            work(repo)
    # a store raises what it likes
    except Exception as error:
        raise ReproFailed(f"DVC's remote: {first_line(error)}. {_ADD_REMOTE}") from None


def _address(repo: Repo, stage: str) -> str:
    """A stage as DVC finds it from any directory."""
    return f"{Path(repo.root_dir) / 'dvc.yaml'}:{stage}"


def _inputs(repo: Repo, stage: str) -> list[str]:
    """The paths that a stage reads and another one writes: what DVC's remote has to bring."""
    (found,) = repo.stage.collect(_address(repo, stage))
    written = {output.fs_path for other in repo.index.stages for output in other.outs}
    read = [str(dep.fs_path) for dep in found.deps if dep.fs_path in written]
    through = [str(output.fs_path) for output in outputs_read_through(repo, found)]
    return [*read, *through]


# no targets would be all that there is
def _push(repo: Repo, paths: list[str]) -> None:
    if paths:
        repo.push(targets=paths)


def _pull(repo: Repo, paths: list[str]) -> None:
    if paths:
        repo.pull(targets=paths, force=True)


def _git(root: Path, *arguments: str) -> str:
    # or git would wait for a password that nobody types
    quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False, env=quiet
    )
    if done.returncode:
        raise RlhfError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
