from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlhf.batches.tables import read_rows_of, read_table, table_path, write_table
from rlhf.common.errors import DataError
from rlhf.workspace import Workspace


def row(number: int, split: str, kind: str = "helpful") -> dict[str, Any]:
    common = {
        "id": str(number),
        "kind": kind,
        "split": split,
        "source": "a:1",
        "opening": "x",
        "messages": "[]",
    }
    return {**common, "input_ids": [1, 2, number], "loss_mask": [False, True, True]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.prepared.mkdir(parents=True)
    rows = [row(3, "train"), row(1, "test"), row(2, "train", "harmless")]
    write_table(made.prepared, "sft", rows)
    return made


def test_rows_come_back_in_order_with_their_types(workspace: Workspace) -> None:
    frame = read_table(workspace, "sft", split="train")
    assert list(frame["id"]) == ["3", "2"] and list(frame.index) == [0, 1]
    ids, mask = frame["input_ids"][0], frame["loss_mask"][0]
    assert isinstance(ids, np.ndarray) and ids.dtype == np.int32 and ids.tolist() == [1, 2, 3]
    assert mask.dtype == np.bool_ and mask.tolist() == [False, True, True]
    assert list(read_table(workspace, "sft", kind="harmless")["id"]) == ["2"]
    assert read_table(workspace, "sft", split="validation").empty


def test_a_missing_table_is_named_with_the_stage_that_writes_it(workspace: Workspace) -> None:
    message = r"preferences\.parquet: no such table; run the stage prepare"
    with pytest.raises(DataError, match=message):
        read_table(workspace, "preferences")


def test_a_split_without_rows_is_named(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"sft\.parquet: has no rows of split validation"):
        read_rows_of(workspace, "sft", "validation")


def test_missing_columns_are_named(workspace: Workspace) -> None:
    path = table_path(workspace, "sft")
    pd.read_parquet(path).drop(columns=["loss_mask", "opening"]).to_parquet(path)
    with pytest.raises(DataError, match=r"sft\.parquet: lacks the columns opening, loss_mask"):
        read_table(workspace, "sft")


def test_a_file_that_is_no_table_is_named(workspace: Workspace) -> None:
    table_path(workspace, "sft").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"sft\.parquet: not readable"):
        read_table(workspace, "sft")
