"""What the report reads. Summaries and the comparisons must be there; logs, details and samples may be missing."""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from rlhf.common.errors import DataError
from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.workspace import Workspace

REQUIRED = ("sft", "reward", "ppo", "gold", "evaluate")
OPTIONAL = ("fetch", "prepare")
LOGGED = ("sft", "reward", "gold", "ppo")
DETAILED = ("prepare", "reward", "gold", "ppo", "evaluate")
_COLUMNS = (
    "id", "kind", "challenger", "baseline", "judge", "prompt", "messages", "response_challenger", "response_baseline",
    "score_challenger", "score_baseline", "verdict",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Everything the page is made of.

    summaries, details: by stage, an empty mapping where an optional file is missing
    steps: step logs by stage, in order of step; samples: of ppo; comparisons: one row a prompt and pair of models
    """

    summaries: dict[str, Row]
    details: dict[str, Row]
    steps: dict[str, list[Row]]
    samples: list[Row]
    comparisons: list[Row]


def read_inputs(workspace: Workspace) -> Inputs:
    """Read a workspace; raises DataError that names the required file at fault."""
    summaries = {stage: read_json(workspace.metrics(stage)) for stage in REQUIRED}
    for stage in OPTIONAL:
        path = workspace.metrics(stage)
        summaries[stage] = read_json(path) if path.exists() else {}
    details = {stage: workspace.details(stage) for stage in DETAILED}
    return Inputs(
        summaries=summaries,
        details={
            stage: read_json(path) if path.exists() else {} for stage, path in details.items()
        },
        steps={
            stage: sorted(read_steps(workspace.steps(stage)), key=lambda row: row["step"])
            for stage in LOGGED
        },
        samples=read_steps(workspace.samples("ppo")),
        comparisons=_read_comparisons(workspace),
    )


def _read_comparisons(workspace: Workspace) -> list[Row]:
    path = workspace.comparisons
    if not path.is_file():
        raise DataError(path, "no such file; run the stage that writes it (dvc repro evaluate)")
    try:
        table = pd.read_parquet(path, columns=list(_COLUMNS))
    except (ArrowException, ValueError, KeyError) as error:
        raise DataError(
            path, f"not a table with the columns {', '.join(_COLUMNS)}: {error}"
        ) from None
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    for number, row in enumerate(rows):
        row["messages"] = read_messages(row["messages"], f"{path}, row {number}")
        row["verdict"] = None if pd.isna(row["verdict"]) else row["verdict"]
        for key in ("score_challenger", "score_baseline"):
            row[key] = None if pd.isna(row[key]) else float(row[key])
    return rows


def read_messages(text: str, where: str) -> list[dict[str, str]]:
    """Read a dialogue from JSON text; raises DataError that begins with `where`."""
    try:
        return [
            {"role": str(item["role"]), "content": str(item["content"])}
            for item in json.loads(text)
        ]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise DataError(
            where, f"messages is not a JSON list of role and content: {error}"
        ) from None
