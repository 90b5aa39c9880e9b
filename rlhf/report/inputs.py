"""What the report reads from a workspace.

Summaries and the comparisons must be there; step logs, details and samples may be missing.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from rlhf.common.errors import DataError
from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.stages import BEFORE_REPORT
from rlhf.workspace import Workspace

# Without these summaries there is no page. The other stages may have run elsewhere: a workspace
# can be given prepared tables and a base model.
REQUIRED_SUMMARIES = ("sft", "reward", "ppo", "gold", "evaluate")
# all figures of the comparisons are in these
REQUIRED_DETAILS = ("evaluate",)

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class ComparisonRow:
    """One judged prompt of `comparisons.parquet`: the columns of that table which the page shows.

    messages: the dialogue up to the user's last turn, each with `role` and `content`
    scores: the judge's, None if it gives none; verdict: win, tie or lose of the challenger, or None
    """

    id: str
    kind: str
    challenger: str
    baseline: str
    judge: str
    messages: list[dict[str, str]]
    response_challenger: str
    response_baseline: str
    score_challenger: float | None
    score_baseline: float | None
    verdict: str | None


@dataclass(frozen=True)
class ReportInputs:
    """Everything the page is made of.

    summaries, details: by stage; an empty mapping where an optional file is missing
    steps: rows of the step logs by stage, in order of step; empty where there is no log
    samples: responses sampled while the policy was trained, as `ppo_samples.jsonl` has them
    """

    summaries: dict[str, JsonObject]
    details: dict[str, JsonObject]
    steps: dict[str, list[JsonObject]]
    samples: list[JsonObject]
    comparisons: list[ComparisonRow]


def read_inputs(workspace: Workspace) -> ReportInputs:
    """Read a workspace; raises DataError that names the required file at fault."""
    summaries: dict[str, JsonObject] = {}
    details: dict[str, JsonObject] = {}
    steps: dict[str, list[JsonObject]] = {}

    for stage in BEFORE_REPORT:
        if stage.summary:
            required = stage.name in REQUIRED_SUMMARIES
            summaries[stage.name] = _read_object(workspace.metrics(stage.name), required)
        if stage.details:
            required = stage.name in REQUIRED_DETAILS
            details[stage.name] = _read_object(workspace.details(stage.name), required)
        if stage.step_log:
            rows = read_steps(workspace.steps(stage.name))
            steps[stage.name] = sorted(rows, key=lambda row: row["step"])

    samples = read_steps(workspace.samples("ppo"))
    return ReportInputs(summaries, details, steps, samples, _read_comparisons(workspace))


def read_messages(text: str, where: str) -> list[dict[str, str]]:
    """Read a dialogue from JSON text; raises DataError that begins with `where`."""
    try:
        return [
            {"role": str(message["role"]), "content": str(message["content"])}
            for message in json.loads(text)
        ]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise DataError(
            where, f"messages is not a JSON list of role and content: {error}"
        ) from None


def _read_object(path: Path, required: bool) -> JsonObject:
    if required or path.exists():
        return read_json(path)
    return {}


def _read_comparisons(workspace: Workspace) -> list[ComparisonRow]:
    path = workspace.comparisons
    columns = [field.name for field in fields(ComparisonRow)]
    if not path.is_file():
        raise DataError(path, "no such file; run the stage that writes it (dvc repro evaluate)")
    try:
        table = pd.read_parquet(path, columns=columns)
    except (ArrowException, ValueError, KeyError) as error:
        raise DataError(
            path, f"not a table with the columns {', '.join(columns)}: {error}"
        ) from None

    rows = []
    for number, record in enumerate(table.to_dict("records")):
        values = {str(column): value for column, value in record.items()}
        values["messages"] = read_messages(values["messages"], f"{path}, row {number}")
        # pandas marks a missing value by None, NaN or NA, depending on the column's type
        for column in ("score_challenger", "score_baseline", "verdict"):
            if pd.isna(values[column]):
                values[column] = None
        rows.append(ComparisonRow(**values))
    return rows
