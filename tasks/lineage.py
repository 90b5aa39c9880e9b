"""Which commit, settings and bytes a stage works on, in DVC's own hashes.

These are what `dvc.lock` holds or is about to hold.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo

from rlhf.common.errors import RlhfError
from rlhf.settings import Settings, flatten
from tasks.repository import refuse_unusable_repository

# of the tags of a run: what it read, each with its hash
DEPENDENCY = "dvc.dep."
# dependencies that are code
_CODE = ("rlhf", "requirements.lock")


@dataclass(frozen=True)
class Lineage:
    """What a stage is made from.

    dependencies: path -> DVC hash (md5, or md5.dir of a directory), as in `dvc.lock`; and the md5 of
        each file whose every key is a parameter, which `dvc.lock` holds key by key
    settings: dotted key -> value, of the sections that the stage depends on
    """

    commit: str
    dirty: bool
    settings_sha256: str
    dependencies: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def tags(self) -> dict[str, str]:
        """Give the lineage as tags of an MLflow run: of what it read, data and models.

        The hashes of its code are in its `lineage.json`.
        """
        tags = {
            "git.commit": self.commit,
            "git.dirty": str(self.dirty).lower(),
            "settings.sha256": self.settings_sha256,
        }
        for path, value in self.dependencies.items():
            # a study reads what lies above it, and MLflow refuses `..` in a key
            name = path.replace("../", "")
            if not name.startswith(_CODE):
                tags[f"{DEPENDENCY}{name}"] = value
        return tags

    def as_dict(self) -> dict[str, Any]:
        """Give all of it, as a file holds it."""
        return {
            "git": {"commit": self.commit, "dirty": self.dirty},
            "settings_sha256": self.settings_sha256,
            "settings": self.settings,
            "dependencies": self.dependencies,
        }

    def changed_keys(self, later: "Lineage") -> list[str]:
        """List the paths and settings that differ in a later lineage of the same stage."""
        before = self.dependencies | self.settings
        after = later.dependencies | later.settings
        keys = before.keys() | after.keys()
        return sorted(key for key in keys if before.get(key) != after.get(key))


def stage_lineage(root: Path, stage: str, settings: Settings) -> Lineage:
    """Hash what `stage` reads; raises RlhfError when it is missing or `root` is no DVC repository."""
    content = settings.model_dump(mode="json", by_alias=True)
    # the order of the keys in the file means nothing
    text = json.dumps(content, sort_keys=True).encode()
    commit, dirty = git_state(root)
    dependencies, params = _dependencies(root, stage)
    return Lineage(
        commit=commit,
        dirty=dirty,
        settings_sha256=hashlib.sha256(text).hexdigest(),
        dependencies=dependencies,
        settings=_select_keys(flatten(content), params),
    )


def output_hashes(root: Path, stage: str) -> dict[str, str]:
    """Hash what `stage` wrote: path -> DVC hash; an output that is missing is left out."""
    with _repo(root) as repo:
        outputs = _load_stage(repo, stage).outs
        return {str(output.def_path): _hash(output) for output in outputs if output.exists}


@dataclass(frozen=True)
class CachedOutput:
    """A directory that a stage wrote, as DVC's cache has it.

    dvc_hash: that of `dvc.lock`; files: relative path -> its bytes in the cache
    """

    dvc_hash: str
    files: Mapping[str, Path] = field(default_factory=dict)


def cache_output(root: Path, stage: str, path: str) -> CachedOutput:
    """Put a directory that `stage` wrote into DVC's cache, as DVC does once the stage has ended.

    From then on there is a file whose bytes nobody changes, whatever becomes of the workspace.
    """
    with _repo(root) as repo:
        outputs = _load_stage(repo, stage).outs
        (output,) = [output for output in outputs if str(output.def_path) == path]
        output.save()
        # what is in the workspace stays as it is
        output.commit(relink=False)
        cache = output.cache
        files = {"/".join(key): Path(cache.oid_to_path(oid.value)) for key, _, oid in output.obj}
    return CachedOutput(str(output.hash_info.value), files)


def git_state(root: Path) -> tuple[str, bool]:
    """Give the commit, and whether anything but dvc.lock differs from it.

    ("none", True) where there is no commit.
    """
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return "none", True
    # every stage changes dvc.lock
    changes = _git(root, "status", "--porcelain", "--", ":(top)", ":(top,exclude)dvc.lock")
    return commit, bool(changes)


def _select_keys(flat: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The values of dotted keys, and of all keys below them."""
    below = tuple(f"{key}." for key in keys)
    return {name: value for name, value in flat.items() if name in keys or name.startswith(below)}


def _dependencies(root: Path, stage: str) -> tuple[dict[str, str], list[str]]:
    """Hashes by path, and the keys of params.yaml that a stage depends on."""
    hashes: dict[str, str] = {}
    params: list[str] = []
    with _repo(root) as repo:
        # deps and params alike are dependencies to DVC
        for dependency in _load_stage(repo, stage).deps:
            if isinstance(dependency, ParamsDependency) and dependency.params:
                params += dependency.params
                continue
            path = str(dependency.def_path)
            if not dependency.exists:
                remedy = f"`dvc repro {stage}` makes it"
                raise RlhfError(f"{path}: missing, and {stage} reads it; {remedy}")
            hashes[path] = _hash(dependency)
        # the bytes of a model, where what stands for it is all that DVC sees
        for output in outputs_read_through(repo, _load_stage(repo, stage)):
            if str(output.def_path).startswith("models/"):
                hashes[str(output.def_path)] = _hash(output)
    return hashes, params


def outputs_read_through(repo: Repo, stage: Any) -> list[Output]:
    """The outputs of other stages below a folder that a stage depends on, and the models of those stages.

    Such outputs are the files that stand for an optional model in the folder of an algorithm's code.
    """
    folders = [Path(dependency.fs_path) for dependency in stage.deps]
    found: list[Output] = []
    for other in repo.index.stages:
        outs = other.outs
        below = [
            out for out in outs if any(folder in Path(out.fs_path).parents for folder in folders)
        ]
        if below:
            models = [out for out in outs if str(out.def_path).startswith("models/")]
            found += [*below, *models]
    return found


def _repo(root: Path) -> Repo:
    try:
        return Repo(str(root))
    except DvcException as error:
        refuse_unusable_repository(root)
        raise RlhfError(
            f"{root.resolve()}: not a DVC repository; stages run inside a clone ({error})"
        ) from None


def _load_stage(repo: Repo, stage: str) -> Any:
    try:
        return repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), stage)
    except DvcException as error:
        raise RlhfError(f"dvc.yaml: {error}") from None


def _hash(item: Output) -> str:
    """Let DVC hash a path; it remembers the hash of a file whose size and time are unchanged."""
    # DVC gives a file of parameters no hash
    if isinstance(item, ParamsDependency):
        return hashlib.md5(Path(item.fs_path).read_bytes()).hexdigest()
    return str(item.get_hash().value)


def _git(root: Path, *arguments: str) -> str:
    """The output of a git command, "" where it fails or there is no git."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
