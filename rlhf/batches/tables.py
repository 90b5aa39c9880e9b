"""The prepared tables: their columns, writing and reading them.

`messages` and ids come from here, never from raw files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet

from rlhf.common.errors import DataError
from rlhf.workspace import Workspace

_TEXT, _IDS = pyarrow.string(), pyarrow.list_(pyarrow.int32())
_ROW = {"id": _TEXT, "kind": _TEXT, "split": _TEXT, "source": _TEXT}
# messages: JSON text
_DIALOGUE = {**_ROW, "opening": _TEXT, "messages": _TEXT}

COLUMNS: Mapping[str, Mapping[str, pyarrow.DataType]] = {
    "sft": {**_DIALOGUE, "input_ids": _IDS, "loss_mask": pyarrow.list_(pyarrow.bool_())},
    "preferences": {
        **_DIALOGUE,
        "unseen_opening": pyarrow.bool_(),
        "chosen": _TEXT,
        "rejected": _TEXT,
        "prompt_ids": _IDS,
        "chosen_ids": _IDS,
        "rejected_ids": _IDS,
    },
    "prompts": {**_DIALOGUE, "prompt_ids": _IDS},
    "pretrain": {**_ROW, "text": _TEXT, "input_ids": _IDS},
    # separator: of the steps, the same in all rows; step_ends: positions in response_ids of each
    # step's last token, rising; labels: of each step, from 0 (wrong) to 1 (right), null without one
    "steps": {
        **_DIALOGUE,
        "separator": _TEXT,
        "prompt_ids": _IDS,
        "response_ids": _IDS,
        "step_ends": _IDS,
        "labels": pyarrow.list_(pyarrow.float32()),
    },
}

# written where some row has a value there
OPTIONAL_COLUMNS: Mapping[str, Mapping[str, pyarrow.DataType]] = {
    # the right answer
    "prompts": {"reference": _TEXT},
}


def table_path(workspace: Workspace, table: str) -> Path:
    """Where a table lies."""
    return workspace.prepared / f"{table}.parquet"


def write_table(directory: Path, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `<table>.parquet` with exactly its columns, and those optional ones that some row has."""
    optional = {
        name: kind
        for name, kind in OPTIONAL_COLUMNS.get(table, {}).items()
        if any(row.get(name) is not None for row in rows)
    }
    schema = pyarrow.schema([*COLUMNS[table].items(), *optional.items()])
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(list(rows), schema=schema), directory / f"{table}.parquet"
    )


def read_table(
    workspace: Workspace, table: str, *, split: str | None = None, kind: str | None = None
) -> pandas.DataFrame:
    """Read a table, or its rows of one split and kind.

    The rows come in the table's order with a fresh index; there may be none.

    Columns of ids and masks hold numpy arrays (int32, bool). Raises DataError when the file is
    missing, unreadable or lacks a column.
    """
    path = table_path(workspace, table)
    if not path.is_file():
        raise DataError(path, "no such table; run the stage prepare (dvc repro)")
    try:
        frame = pandas.read_parquet(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(path, f"not readable as parquet: {error}") from None
    missing = [column for column in COLUMNS[table] if column not in frame.columns]
    if missing:
        raise DataError(
            path, f"lacks the columns {', '.join(missing)}; run the stage prepare again"
        )
    if split is not None:
        frame = frame[frame["split"] == split]
    if kind is not None:
        frame = frame[frame["kind"] == kind]
    return frame.reset_index(drop=True)


def has_column(workspace: Workspace, table: str, column: str) -> bool:
    """Whether a table has one of its optional columns; False where there is no table yet."""
    path = table_path(workspace, table)
    return path.is_file() and column in pyarrow.parquet.read_schema(path).names


def read_rows_of(workspace: Workspace, table: str, split: str) -> pandas.DataFrame:
    """Read one split that a stage cannot do without; raises DataError also when it has no rows."""
    frame = read_table(workspace, table, split=split)
    if frame.empty:
        raise DataError(
            table_path(workspace, table),
            f"has no rows of split {split}; fractions and limits in `data` decide",
        )
    return frame
