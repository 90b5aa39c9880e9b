"""From a model's name in MLflow's registry back to its bytes, which DVC keeps."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError
from rlhf.common.files import tree_sha256
from rlhf.common.yaml import write_yaml
from rlhf.settings import load_settings
from rlhf.workspace import Workspace
from tasks.environment import records_root
from tasks.errors import TrackingError
from tasks.lineage import CachedOutput
from tasks.registry import find_tree, record_figures, register_model, registered_name
from tasks.tracking import TrackedRun, client_of, tracking_uri

# it greets for every scratch repository
logging.getLogger("dvc.repo.init").setLevel(logging.WARNING)

CHALLENGER = "challenger"
CHAMPION = "champion"

_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_POINTER = "model.dvc"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry and what its bytes are."""

    name: str
    version: str
    dvc_hash: str
    tree_sha256: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


# -- finding a version ----------------------------------------------------------------------------


def find_by_alias(root: Path, experiment: str, model: str, alias: str) -> RegisteredVersion | None:
    """Give the version of a model that has the alias; None where there is none."""
    name = registered_name(experiment, model)
    try:
        return _described(client_of(root).get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise


def find_by_tree(root: Path, experiment: str, model: str, tree: str) -> RegisteredVersion | None:
    """Give the version of a model that has these bytes and loads; None where there is none."""
    version = find_tree(client_of(root), registered_name(experiment, model), tree)
    return _described(version) if version else None


def find_version(root: Path, experiment: str, reference: str) -> RegisteredVersion:
    """Find a version by what a user calls it; raises RlhfError that lists what there is.

    `champion` and `challenger` (of the policy), NAME@ALIAS, NAME/VERSION, or NAME for its newest
    version; NAME is that of a model (`sft`), or registered (`rlhf-sft`) where it is another
    experiment's.
    """
    if reference in (CHALLENGER, CHAMPION):
        reference = f"policy@{reference}"
    name, has_alias, alias = reference.partition("@")
    name, _, number = name.partition("/")
    client = client_of(root)
    # a model of this experiment, else a name as it is registered
    for full_name in (registered_name(experiment, name), name):
        try:
            if has_alias:
                return _described(client.get_model_version_by_alias(full_name, alias))
            if number:
                return _described(client.get_model_version(full_name, number))
            versions = client.search_model_versions(f"name = '{full_name}'")
        except MlflowException as error:
            if error.error_code in _MISSING:
                continue
            address = without_credentials(tracking_uri(root))
            raise TrackingError(f"MLflow at {address} cannot be used: {error}") from None
        if versions:
            return _described(max(versions, key=_number))
    known = _list_versions(client) or "none"
    raise RlhfError(f"{reference}: no such model; the registry has {known}")


def _list_versions(client: MlflowClient) -> str:
    """All versions with their aliases, as a user may name them."""
    aliases: dict[tuple[str, str], str] = {}
    for model in client.search_registered_models():
        for alias, number in sorted(model.aliases.items()):
            key = (model.name, str(number))
            aliases[key] = f"{aliases.get(key, '')} @{alias}"

    versions = client.search_model_versions()
    lines = []
    for version in sorted(versions, key=lambda version: (version.name, _number(version))):
        own_aliases = aliases.get((version.name, str(version.version)), "")
        lines.append(f"{version.name}/{version.version}{own_aliases}")
    return ", ".join(lines)


def _number(version: ModelVersion) -> int:
    return int(version.version)


def _described(version: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        name=version.name,
        version=str(version.version),
        dvc_hash=version.tags.get("dvc.out", ""),
        tree_sha256=version.tags.get("tree.sha256", ""),
    )


# -- registering one when its bytes have left the workspace -----------------------------------------


def register_later(
    run: TrackedRun,
    model: str,
    alias: str | None,
    bytes_of: str,
    dvc_hash: str,
    tree: str,
    figures: Mapping[str, Any],
) -> None:
    """Register a model as `run` would have; its bytes come from DVC of the workspace `bytes_of`."""
    workspace = Workspace(run.root)
    settings = load_settings(workspace.params)
    name = registered_name(run.experiment, model)
    # a DVC experiment's workspace is gone by now, and its cache is that of the one around it
    root = Path(bytes_of) if Path(bytes_of).exists() else records_root(Path(bytes_of))
    place = workspace.model(model)
    place.parent.mkdir(exist_ok=True)
    with restored(root, RegisteredVersion(name, "", dvc_hash, tree)) as directory:
        place.unlink(missing_ok=True)
        place.symlink_to(directory.resolve())
        alias = alias if is_newest(run, name, alias) else None
        version = register_model(run, model, CachedOutput(dvc_hash), alias, settings)
    record_figures(run, version, figures)


def is_newest(run: TrackedRun, name: str, alias: str | None) -> bool:
    """Whether no run that began later has given the alias to a version of its own meanwhile."""
    if alias is None:
        return True
    client = client_of(run.root)
    models = client.search_registered_models(f"name = '{name}'")
    number = models[0].aliases.get(alias) if models else None
    if number is None:
        return True
    holder = client.get_model_version(name, str(number))
    began = client.get_run(str(holder.run_id)).info.start_time
    return bool(began <= client.get_run(run.run_id).info.start_time)


# -- its bytes ------------------------------------------------------------------------------------


@contextmanager
def restored(root: Path, model: RegisteredVersion) -> Iterator[Path]:
    """Give a directory with the bytes of a version for the block.

    They come from DVC's cache or its default remote. Raises RlhfError when they are in neither, or
    are not what was registered.
    """
    with Repo(str(root)) as repo:
        config = {key: dict(repo.config.get(key) or {}) for key in ("cache", "remote", "core")}
        config["cache"] |= {"dir": str(Path(repo.cache.local.path).parents[1])}
        config["core"] |= {"no_scm": True}
        # on the same disk as the cache: DVC may link instead of copying
        scratch = Path(repo.tmp_dir)
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="version-") as folder:
        # a repository of its own, of this one output: dvc.lock of the workspace need not know of it
        Repo.init(folder, no_scm=True).close()
        output = {"md5": model.dvc_hash, "hash": "md5", "path": "model"}
        (Path(folder) / _POINTER).write_text(write_yaml({"outs": [output]}), encoding="utf-8")
        try:
            with Repo(folder, config=config) as repo:
                repo.pull()
        except DvcException as error:
            raise RlhfError(
                f"{model}: its bytes ({model.dvc_hash}) are not in DVC's cache any more: {error}"
            ) from None
        directory = Path(folder) / "model"
        if tree_sha256(directory) != model.tree_sha256:
            raise RlhfError(f"{model}: the bytes in DVC's cache are not those that were registered")
        yield directory
