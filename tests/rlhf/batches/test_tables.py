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
    write_table(
        made.prepared, "sft", [row(3, "train"), row(1, "test"), row(2, "train", "harmless")]
    )
    return made


def test_rows_come_back_in_order_with_their_types(workspace: Workspace) -> None:
    frame = read_table(workspace, "sft", split="train")
    assert list(frame["id"]) == ["3", "2"] and list(frame.index) == [0, 1]
    ids, mask = frame["input_ids"][0], frame["loss_mask"][0]
    assert isinstance(ids, np.ndarray) and ids.dtype == np.int32 and ids.tolist() == [1, 2, 3]
    assert mask.dtype == np.bool_ and mask.tolist() == [False, True, True]
    assert list(read_table(workspace, "sft", kind="harmless")["id"]) == ["2"]
    assert read_table(workspace, "sft", split="validation").empty


def test_what_is_missing_is_named(workspace: Workspace) -> None:
    with pytest.raises(
        DataError, match=r"preferences\.parquet: no such table; run the stage prepare"
    ):
        read_table(workspace, "preferences")
    with pytest.raises(DataError, match=r"sft\.parquet: has no rows of split validation"):
        read_rows_of(workspace, "sft", "validation")
    pd.read_parquet(table_path(workspace, "sft")).drop(columns=["loss_mask", "opening"]).to_parquet(
        table_path(workspace, "sft")
    )
    with pytest.raises(DataError, match=r"sft\.parquet: lacks the columns opening, loss_mask"):
        read_table(workspace, "sft")
    table_path(workspace, "sft").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"sft\.parquet: not readable"):
        read_table(workspace, "sft")
