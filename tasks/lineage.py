"""Which commit, settings and bytes a stage works on, in DVC's own hashes: what `dvc.lock` holds or is about to hold."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo

from rlhf.common.errors import RlhfError
from rlhf.settings import Settings, flatten


@dataclass(frozen=True)
class Lineage:
    """What a stage is made from.

    dependencies: path -> DVC hash (md5, or md5.dir of a directory), as in `dvc.lock`; and the md5 of each file whose
        every key is a parameter, which `dvc.lock` holds key by key
    settings: dotted key -> value, of the sections that the stage depends on
    """

    commit: str
    dirty: bool
    settings_sha256: str
    dependencies: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def tags(self) -> dict[str, str]:
        """Give the lineage as tags of an MLflow run or model version."""
        return {
            "git.commit": self.commit,
            "git.dirty": str(self.dirty).lower(),
            "settings.sha256": self.settings_sha256,
            # of a study, what lies above it: MLflow refuses `..` in a key
            **{
                f"dvc.dep.{path.replace('../', '')}": value
                for path, value in self.dependencies.items()
            },
        }


def stage_lineage(root: Path, stage: str, settings: Settings) -> Lineage:
    """Hash what `stage` reads; raises RlhfError when something is missing or `root` is no DVC repository."""
    content = settings.model_dump(mode="json", by_alias=True)
    text = json.dumps(content, sort_keys=True).encode()
    commit, dirty = git_state(root)
    dependencies, keys = _dependencies(root, stage)
    return Lineage(
        commit,
        dirty,
        hashlib.sha256(text).hexdigest(),
        dependencies,
        _chosen(flatten(content), keys),
    )


def output_hashes(root: Path, stage: str) -> dict[str, str]:
    """Hash what `stage` wrote: path -> DVC hash; an output that is missing is left out."""
    with _repo(root) as repo:
        return {str(out.def_path): _hash(out) for out in _load(repo, stage).outs if out.exists}


def git_state(root: Path) -> tuple[str, bool]:
    """Give the commit and whether anything but dvc.lock differs from it; ("none", True) where there is no commit."""
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ":(top)", ":(top,exclude)dvc.lock")
    return (commit or "none"), not commit or bool(changes)


def _chosen(flat: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in flat.items()
        if any(name == key or name.startswith(f"{key}.") for key in keys)
    }


def _dependencies(root: Path, stage: str) -> tuple[dict[str, str], list[str]]:
    hashes, keys = {}, []
    with _repo(root) as repo:
        for dependency in _load(repo, stage).deps:
            if isinstance(dependency, ParamsDependency) and dependency.params:
                keys += dependency.params
            elif dependency.exists:
                hashes[str(dependency.def_path)] = _hash(dependency)
            else:
                raise RlhfError(
                    f"{dependency.def_path}: missing, and {stage} reads it; `dvc repro {stage}` makes it"
                )
    return hashes, keys


def _repo(root: Path) -> Repo:
    try:
        return Repo(str(root))
    except DvcException as error:
        raise RlhfError(
            f"{root.resolve()}: not a DVC repository; stages run inside a clone ({error})"
        ) from None


def _load(repo: Repo, stage: str) -> Any:
    try:
        return repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), stage)
    except DvcException as error:
        raise RlhfError(f"dvc.yaml: {error}") from None


def _hash(item: Output) -> str:
    """Let DVC hash a path; unchanged files come from its own memory of their sizes and times. Parameters are hashed here."""
    if isinstance(item, ParamsDependency):
        return hashlib.md5(Path(item.fs_path).read_bytes()).hexdigest()
    return str(item.get_hash().value)


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
