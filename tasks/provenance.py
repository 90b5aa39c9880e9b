"""Where an MLflow run comes from: its source and commit, and the datasets that it reads.

These are the columns Source, Version and Dataset of MLflow's table of runs.
"""

import getpass
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as parquet
from mlflow.entities import Dataset, DatasetInput, InputTag, SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from rlhf.stages import STAGES
from tasks.lineage import Lineage

_DATA = "data/"
# how the stages of a study's arms begin
_ARM = "arm-"
# of the digest of a dataset, in characters
_DIGEST = 36


def flow_command(stage: str) -> str:
    """Give the command of a stage's flow, or of an arm's."""
    module = "arm" if stage.startswith(_ARM) else stage
    return f"python -m flows.{module}"


def source_tags(name: str, commit: str) -> dict[str, str]:
    """Say what a run ran, at which commit, and whose it is."""
    return {
        MLFLOW_SOURCE_NAME: name,
        MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
        MLFLOW_GIT_COMMIT: commit,
        MLFLOW_USER: _user(),
    }


def dataset_inputs(root: Path, stage: str, lineage: Lineage) -> list[DatasetInput]:
    """Name each table or folder of data that a stage reads, with DVC's hash and its number of rows."""
    trains = stage in STAGES and STAGES[stage].trains
    context = "training" if trains or stage.startswith(_ARM) else "evaluation"
    tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
    return [
        DatasetInput(_dataset(root, path, value), tags)
        for path, value in lineage.dependencies.items()
        if path.startswith(_DATA)
    ]


def _dataset(root: Path, path: str, dvc_hash: str) -> Dataset:
    return Dataset(
        name=Path(path).stem,
        digest=dvc_hash[:_DIGEST],
        source_type="dvc",
        source=json.dumps({"path": path, "md5": dvc_hash}),
        profile=json.dumps(_profile(root / path)),
    )


def _profile(path: Path) -> Mapping[str, int]:
    if path.suffix != ".parquet":
        return {}
    table = parquet.read_metadata(path)
    return {"num_rows": table.num_rows, "num_columns": table.num_columns}


def _user() -> str:
    try:
        return getpass.getuser()
    # in a container whose user has no name
    except (KeyError, OSError):
        return "unknown"
