"""Model versions in MLflow's registry, each a logged model that MLflow's own calls load.

Whose bytes are registered already keeps its version. The registered name is `<experiment>-<model>`,
for several projects may share a server.
"""

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError
from rlhf.common.files import tree_bytes, tree_sha256
from rlhf.settings import Settings, flatten
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.errors import TrackingError
from tasks.lineage import CachedOutput
from tasks.model_card import LOGGED_MODEL, logged_model_id, write_card
from tasks.packing import file_hashes, link_or_copy, pack, weight_files, weights_folder
from tasks.tracking import (
    TrackedRun,
    client_of,
    global_address,
    log_metrics,
    metrics_of,
    set_tags,
    tracking_uri,
)

# those that a stage writes and registers
REGISTERED_MODELS = frozenset(
    stage.model for stage in STAGES.values() if stage.model and stage.registered
)


def registered_name(experiment: str, model: str) -> str:
    """Name a model in the registry."""
    return f"{experiment}-{model}"


def register_model(
    run: TrackedRun, model: str, output: CachedOutput, alias: str | None, settings: Settings
) -> ModelVersion:
    """Register the directory of `model` as made by `run`; `output` is what DVC keeps of it."""
    client = client_of(run.root)
    directory = Workspace(run.root).model(model)
    tree = tree_sha256(directory)
    name = registered_name(run.experiment, model)
    version = find_tree(client, name, tree)
    # a run that is forced gives the same bytes again
    if version is None:
        _create_name(client, name)
        tags = _tags(run, output.dvc_hash, tree)
        logged = _log_model(client, run, directory, tags, settings, output)
        with global_address(tracking_uri(run.root)):
            version = client.create_model_version(
                name, logged.model_uri, run.run_id, tags=tags, model_id=logged.model_id
            )
    for run_id in (run.run_id, run.parent_id):
        client.log_outputs(run_id, [LoggedModelOutput(logged_model_id(version), step=0)])
    set_tags(client, run.run_id, {"model.name": name, "model.version": str(version.version)})
    if alias:
        client.set_registered_model_alias(name, alias, str(version.version))
    return version


def _create_name(client: MlflowClient, name: str) -> None:
    """Make a registered model, where there is none of that name."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def find_tree(client: MlflowClient, name: str, tree: str) -> ModelVersion | None:
    """Find the version that has these bytes and loads."""
    query = f"name = '{name}' and tags.`tree.sha256` = '{tree}'"
    # versions of earlier releases are folders without an MLmodel
    loadable = [
        version
        for version in client.search_model_versions(query)
        if str(version.source).startswith(LOGGED_MODEL)
    ]
    return loadable[0] if loadable else None


def logged_model_of(client: MlflowClient, version: ModelVersion) -> LoggedModel:
    """Give the logged model of a version; raises RlhfError where an earlier release made it without."""
    if not str(version.source).startswith(LOGGED_MODEL):
        raise RlhfError(
            f"{version.name}/{version.version}: registered by an earlier release, as files that MLflow "
            "does not load; `dvc repro -f` of its stage registers it anew"
        )
    return client.get_logged_model(logged_model_id(version))


def record_figures(run: TrackedRun, version: ModelVersion, figures: Mapping[str, Any]) -> None:
    """Log what `run` measured of a model as metrics of the model, and write its description anew."""
    client = client_of(run.root)
    model_id = logged_model_id(version)
    metrics = [
        Metric(metric.key, metric.value, metric.timestamp, metric.step, model_id=model_id)
        for metric in metrics_of(figures, 0)
    ]
    known = client.get_logged_model(model_id).metrics or []
    told = {(metric.key, metric.value) for metric in known if metric.run_id == run.run_id}
    news = [metric for metric in metrics if (metric.key, metric.value) not in told]
    log_metrics(client, run.run_id, news)
    write_card(client, version)


def record_judged(run: TrackedRun, judged: Mapping[str, Mapping[str, Any]]) -> None:
    """Record the figures of models, each found by its `tree`.

    Raises TrackingError that names those that have no such version, when the others are recorded.
    """
    missing: list[str] = []
    for model, found in judged.items():
        name = registered_name(run.experiment, model)
        version = find_tree(client_of(run.root), name, found["tree"])
        if version is None:
            missing.append(model)
        else:
            record_figures(run, version, found["figures"])
    if missing:
        raise TrackingError(unregistered(run, missing))


def unregistered(run: TrackedRun, models: Collection[str]) -> str:
    """Say of models in the workspace that the present server has no such versions, and what to do."""
    names = ", ".join(registered_name(run.experiment, model) for model in models)
    stages = [stage.name for stage in STAGES.values() if stage.registered and stage.model in models]
    address = without_credentials(tracking_uri(run.root))
    return (
        f"{names}: MLflow at {address} has no version with the bytes that lie in models/; they were "
        "registered with another server, or never. Set MLFLOW_TRACKING_URI to the one that has them "
        "and run `dvc repro --force --single-item evaluate`; or register them with this one by running "
        f"their stages anew: `dvc repro --force --single-item {' '.join([*stages, 'evaluate'])}`"
    )


# -- the logged model -------------------------------------------------------------------------------


def _log_model(
    client: MlflowClient,
    run: TrackedRun,
    directory: Path,
    tags: Mapping[str, str],
    settings: Settings,
    output: CachedOutput,
) -> LoggedModel:
    """Make a logged model of a directory; one that could not be written whole is marked so."""
    logged = client.create_logged_model(
        client.get_run(run.run_id).info.experiment_id,
        name=directory.name,
        source_run_id=run.run_id,
        tags=dict(tags),
        params={key: str(value) for key, value in flatten(run.lineage.settings).items()},
        model_type=directory.name,
    )
    state = LoggedModelStatus.FAILED
    try:
        _write_folder(client, run, directory, logged, settings)
        if settings.mlflow.weights != "reference":
            copies = settings.mlflow.weights == "copy"
            add_weights(client, logged, directory, output, copies=copies)
        state = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(logged.model_id, state)
    return logged


def _write_folder(
    client: MlflowClient,
    run: TrackedRun,
    directory: Path,
    logged: LoggedModel,
    settings: Settings,
) -> None:
    mlflow_model = Model(logged.artifact_location, run.run_id, model_id=logged.model_id)
    generation = settings.evaluate.generation
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        pack(directory, folder, mlflow_model, generation, _lineage(run, directory))
        client.log_model_artifacts(logged.model_id, str(folder))


def add_weights(
    client: MlflowClient,
    logged: LoggedModel,
    directory: Path,
    output: CachedOutput,
    *,
    copies: bool = False,
) -> None:
    """Put the weights of `directory` where the logged model wants them.

    Where the store is a folder of this machine they are further names of the files in DVC's cache,
    unless `copies` are asked for; a store that is spoken to gets them sent.
    """
    place = weights_folder(logged.name)
    store = _local_path(logged.artifact_location)
    for path in weight_files(directory):
        name = path.relative_to(directory)
        target = place / name
        if store is not None and not copies:
            link_or_copy(output.files.get(name.as_posix(), path), store / target)
        else:
            client.log_model_artifact(logged.model_id, str(path), target.parent.as_posix())


def _local_path(location: str) -> Path | None:
    """The folder of an artifact store on this machine; None for one that is spoken to."""
    parts = urlparse(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path))


def _tags(run: TrackedRun, dvc_hash: str, tree: str) -> dict[str, str]:
    """What a version is looked up by; the whole of it is in lineage.json."""
    return {
        "stage": run.stage,
        "dvc.out": dvc_hash,
        "tree.sha256": tree,
        "git.commit": run.lineage.commit,
        "git.dirty": str(run.lineage.dirty).lower(),
    }


def _lineage(run: TrackedRun, directory: Path) -> dict[str, Any]:
    """All that a model was made from, and what its bytes are."""
    return {
        "model": directory.name,
        "made_by": {"stage": run.stage, "run_id": run.run_id, "parent_run_id": run.parent_id},
        **run.lineage.as_dict(),
        "bytes": tree_bytes(directory),
        "tree_sha256": tree_sha256(directory),
        "files": file_hashes(directory),
    }
