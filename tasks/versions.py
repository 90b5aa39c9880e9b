"""From a model's name in MLflow's registry back to its bytes, which DVC keeps."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlhf.common.errors import RlhfError
from rlhf.common.files import tree_sha256
from tasks.errors import TrackingError
from tasks.registry import registered_name
from tasks.tracking import client_of, shown, tracking_uri

logging.getLogger("dvc.repo.init").setLevel(
    logging.WARNING
)  # it greets for every scratch repository

CHALLENGER, CHAMPION = "challenger", "champion"
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_POINTER = "model.dvc"


@dataclass(frozen=True)
class Registered:
    """A version in the registry and what its bytes are."""

    name: str
    version: str
    dvc_hash: str
    tree_sha256: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def by_alias(root: Path, experiment: str, model: str, alias: str) -> Registered | None:
    """Give the version of a model that has the alias; None where there is none."""
    try:
        return _registered(
            client_of(root).get_model_version_by_alias(registered_name(experiment, model), alias)
        )
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise


def by_tree(root: Path, experiment: str, model: str, tree: str) -> Registered | None:
    """Give the version of a model that has these bytes; None where there is none."""
    query = f"name = '{registered_name(experiment, model)}' and tags.`tree.sha256` = '{tree}'"
    found = client_of(root).search_model_versions(query)
    return _registered(found[0]) if found else None


def find_version(root: Path, experiment: str, reference: str) -> Registered:
    """Find a version by what a user calls it; raises RlhfError that lists what there is.

    `champion` and `challenger` (of the policy), NAME@ALIAS, NAME/VERSION, or NAME for its newest version; NAME is
    that of a model (`sft`), or registered (`rlhf-sft`) where it is another experiment's.
    """
    if reference in (CHALLENGER, CHAMPION):
        reference = f"policy@{reference}"
    client = client_of(root)
    name, at, alias = reference.partition("@")
    name, _, number = name.partition("/")
    for full in (registered_name(experiment, name), name):
        try:
            if at:
                return _registered(client.get_model_version_by_alias(full, alias))
            if number:
                return _registered(client.get_model_version(full, number))
            versions = client.search_model_versions(f"name = '{full}'")
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise TrackingError(
                    f"MLflow at {shown(tracking_uri(root))} cannot be used: {error}"
                ) from None
            continue
        if versions:
            return _registered(max(versions, key=lambda version: int(version.version)))
    raise RlhfError(
        f"{reference}: no such model; the registry has {_all_versions(client) or 'none'}"
    )


def _all_versions(client: MlflowClient) -> str:
    aliases: dict[tuple[str, str], str] = {}
    for model in client.search_registered_models():
        for alias, number in sorted(model.aliases.items()):
            aliases[model.name, str(number)] = (
                f"{aliases.get((model.name, str(number)), '')} @{alias}"
            )
    versions = sorted(
        client.search_model_versions(), key=lambda item: (item.name, int(item.version))
    )
    return ", ".join(
        f"{item.name}/{item.version}{aliases.get((item.name, str(item.version)), '')}"
        for item in versions
    )


def _registered(version: ModelVersion) -> Registered:
    tags = version.tags
    return Registered(
        version.name, str(version.version), tags.get("dvc.out", ""), tags.get("tree.sha256", "")
    )


@contextmanager
def restored(root: Path, model: Registered) -> Iterator[Path]:
    """Give a directory with the bytes of a version for the block, from DVC's cache or its default remote.

    Raises RlhfError when they are in neither, or are not what was registered.
    """
    with Repo(str(root)) as repo:
        config = {key: dict(repo.config.get(key) or {}) for key in ("cache", "remote", "core")}
        config["cache"] |= {"dir": str(Path(repo.cache.local.path).parents[1])}
        config["core"] |= {"no_scm": True}
        scratch = Path(repo.tmp_dir)
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="version-") as place:
        # A repository of its own, of this one output: dvc.lock of the workspace need not know of it
        Repo.init(place, no_scm=True).close()
        (Path(place) / _POINTER).write_text(
            f"outs:\n- md5: {model.dvc_hash}\n  hash: md5\n  path: model\n"
        )
        try:
            with Repo(place, config=config) as repo:
                repo.pull()
        except DvcException as error:
            raise RlhfError(
                f"{model}: its bytes ({model.dvc_hash}) are not in DVC's cache any more: {error}"
            ) from None
        directory = Path(place) / "model"
        if tree_sha256(directory) != model.tree_sha256:
            raise RlhfError(f"{model}: the bytes in DVC's cache are not those that were registered")
        yield directory
