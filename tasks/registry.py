"""Model versions in MLflow's registry: a manifest and the small files of a model.

The weights stay where DVC keeps them. A version's source is an artifact folder with `manifest.json`:
the model's path, its DVC hash (under which the bytes lie in DVC's cache), the sha256 of its tree and
of every file. Files of more than 16 MB are named there and not copied.
"""

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlhf.common.files import sha256, tree_bytes, tree_sha256, write_json
from rlhf.workspace import Workspace
from tasks.tracking import TrackedRun, client_of, set_tags

# the size of a file that is copied, at most
COPIED_BYTES = 16 * 1024 * 1024
_FOLDER = "model"


def register_model(run: TrackedRun, model: str, dvc_hash: str, alias: str | None) -> ModelVersion:
    """Register the directory of `model` as made by `run`.

    Bytes that are registered already keep their version. The registered name is
    `<experiment>-<model>`, for several projects may share a server.
    """
    client = client_of(run.root)
    directory = Workspace(run.root).model(model)
    tree = tree_sha256(directory)
    name = registered_name(run.experiment, model)
    version = _known_version(client, name, tree)
    # a run that is forced gives the same bytes again
    if version is None:
        _log_files(client, run, directory, _manifest(run, model, directory, dvc_hash, tree))
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{_FOLDER}"
        tags = {
            **run.lineage.tags(),
            "dvc.out": dvc_hash,
            "tree.sha256": tree,
            "path": f"models/{model}",
        }
        version = client.create_model_version(name, source, run.run_id, tags=tags)
    set_tags(client, run.run_id, {"model.name": name, "model.version": str(version.version)})
    if alias:
        client.set_registered_model_alias(name, alias, str(version.version))
    return version


def registered_name(experiment: str, model: str) -> str:
    """Name a model in the registry."""
    return f"{experiment}-{model}"


def _known_version(client: MlflowClient, name: str, tree: str) -> ModelVersion | None:
    # the name has to exist before a version is made
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    query = f"name = '{name}' and tags.`tree.sha256` = '{tree}'"
    versions = client.search_model_versions(query)
    return versions[0] if versions else None


def _log_files(
    client: MlflowClient, run: TrackedRun, directory: Path, manifest: dict[str, object]
) -> None:
    """Log the manifest and the small files of a model."""
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "manifest.json", manifest)
        client.log_artifacts(run.run_id, scratch, _FOLDER)
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size <= COPIED_BYTES:
            folder = Path(_FOLDER) / path.relative_to(directory).parent
            client.log_artifact(run.run_id, str(path), folder.as_posix())


def _manifest(
    run: TrackedRun, model: str, directory: Path, dvc_hash: str, tree: str
) -> dict[str, object]:
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            entry = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            files[path.relative_to(directory).as_posix()] = entry
    return {
        "model": model,
        "path": f"models/{model}",
        "dvc_hash": dvc_hash,
        "tree_sha256": tree,
        "bytes": tree_bytes(directory),
        "files": files,
        "made_by": {"stage": run.stage, "run_id": run.run_id, **run.lineage.tags()},
    }
