"""Rows of JSON: no object is lost, wherever it stands, and no key."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from raw_files import seen, write_lines, written

from rlhf.common.errors import DataError
from rlhf.data.ledger import Ledger
from rlhf.data.load import load_rows
from rlhf.data.parse import parse_row
from rlhf.data.read import read_rows
from rlhf.data.rows import BrokenRow, UnreadableFile

A, B, C = ({"prompt": f"{name}?", "completion": f"{name}."} for name in "abc")


def as_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    return written(path, json.dumps(value).encode())


def broken_of(path: Path) -> list[tuple[str, str]]:
    rows = [row for _, row, _ in read_rows(path)]
    return [(row.reason, row.detail) for row in rows if isinstance(row, BrokenRow)]


# -- objects around the rows -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "splits"),
    [
        ({"version": 1, "data": [A, B, C]}, [None] * 3),
        ({"rows": [A, B, C], "meta": {"by": "me"}, "tags": ["x"]}, [None] * 3),
        ({"data": [A, B], "validation": [C]}, [None, None, "validation"]),
        ({"train": [A], "test": [B], "Dev": [C]}, ["train", "test", "validation"]),
        ({"train": [A, B, C], "test": []}, ["train"] * 3),
        # a key of any name, where it is the only one
        ({"examples": [A, B, C], "source": "forum", "labels": []}, [None] * 3),
        ({"type": "text2text", "instances": [A, B, C]}, [None] * 3),
        ({"RECORDS": [A, B, C]}, [None] * 3),
    ],
)
def test_rows_under_a_key_are_the_rows_of_the_file(
    value: Any, splits: list[str | None], tmp_path: Path
) -> None:
    rows = list(read_rows(as_json(tmp_path / "a.json", value)))
    assert [(line, row) for line, row, _ in rows] == [(1, A), (2, B), (3, C)]
    assert [split for _, _, split in rows] == splits


def test_the_key_tells_the_split_where_it_names_one_else_the_file(tmp_path: Path) -> None:
    as_json(tmp_path / "raw" / "test.json", {"data": [A], "train": [B]})
    rows = load_rows(tmp_path / "raw", "sft", 0, Ledger())
    assert [row.published_split for row in rows] == ["test", "train"]


@pytest.mark.parametrize(
    ("value", "lost"),
    [
        ({"data": [A], "more": [B]}, "more"),
        ({"train": [A], "holdout": [B], "extra": [C]}, "holdout, extra"),
        ({**A, "data": [B]}, "prompt, completion"),
        ({"messages": [{"role": "user", "content": "a"}], "rows": [B]}, "messages"),
    ],
)
def test_what_stands_beside_rows_is_not_lost(value: Any, lost: str, tmp_path: Path) -> None:
    path = as_json(tmp_path / "a.json", value)
    with pytest.raises(
        UnreadableFile, match=rf"a\.json: rows stand under .* under {lost} would be"
    ):
        list(read_rows(path))


@pytest.mark.parametrize("keys", [("examples", "more"), ("instances", "people", "places")])
def test_objects_under_several_keys_are_told(keys: tuple[str, ...], tmp_path: Path) -> None:
    path = as_json(tmp_path / "a.json", {key: [A, B] for key in keys})
    with pytest.raises(UnreadableFile, match=f"objects stand under {', '.join(keys)}, and nothing"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}},
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        {"id": [1, 2], "messages": [[{"role": "user", "content": "a"}], []]},
    ],
)
def test_cells_by_columns_are_told_with_what_writes_rows(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"to_json\(FILE, orient='records', lines=True\)"):
        list(read_rows(as_json(tmp_path / "a.json", value)))


def test_a_byte_order_mark_within_a_file_hides_no_row(tmp_path: Path) -> None:
    """As of files that were joined."""
    parts = [json.dumps(row).encode("utf-8-sig") for row in (A, B, C)]
    path = written(tmp_path / "a.jsonl", b"\n".join(parts))
    assert seen(path) == [(1, A), (2, B), (3, C)]


def test_any_other_object_is_a_row(tmp_path: Path) -> None:
    example = {"input": "a", "output": "b"}
    for value in (
        {**A, "data": [1, 2]},
        {"messages": [{"role": "user", "content": "a"}]},
        A,
        {**A, "sources": [{"name": "mine"}]},
        {"instruction": "Add.", "instances": [example, example]},
    ):
        assert seen(as_json(tmp_path / "a.json", value)) == [(1, value)]


# -- keys ------------------------------------------------------------------------------------------

TWICE = '{"prompt": "a?", "completion": "x", "completion": "y"}'
NESTED = '{"messages": [{"role": "user", "content": "a", "content": "b"}]}'


@pytest.mark.parametrize(("row", "key"), [(TWICE, "completion"), (NESTED, "content")])
@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", "{0}\n{1}\n"), ("a.json", "[{0},{1}]"), ("b.json", '{{"data": [{0}, {1}]}}')],
)
def test_a_key_that_stands_twice_breaks_its_row_alone(
    row: str, key: str, name: str, text: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, text.format(row, json.dumps(A)).encode())
    assert seen(path) == [(1, "key_twice"), (2, A)]
    assert broken_of(path) == [("key_twice", f"'{key}' stands twice")]


def test_rows_under_a_key_that_stands_twice_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", b'{"data": [{"a": 1}], "data": [{"a": 2}]}')
    assert broken_of(path) == [("key_twice", "'data' stands twice")]


def test_a_key_that_stands_twice_in_a_cell_is_told() -> None:
    cell = '[{"role": "user", "role": "assistant", "content": "a"}]'
    with pytest.raises(BrokenRow, match="key_twice"):
        parse_row({"messages": cell})


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    texts = pyarrow.array(["a"])
    inner = pyarrow.StructArray.from_arrays([texts, texts], names=["x", "x"])
    lists = pyarrow.ListArray.from_arrays([0, 1], inner)
    for name, table in (
        ("a", pyarrow.Table.from_arrays([texts, texts], names=["x", "x"])),
        ("b", pyarrow.table({"y": inner})),
        ("c", pyarrow.table({"y": lists})),
    ):
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(table, path)
        with pytest.raises(DataError, match=rf"{name}\.parquet: two columns of one name: x, x"):
            list(read_rows(path))


# -- lines -----------------------------------------------------------------------------------------


def test_faults_of_lines_are_told_by_their_place(tmp_path: Path) -> None:
    long = '{"n": ' + "9" * 5000 + "}"
    path = write_lines(tmp_path / "a.jsonl", [A, '{"a": 1,', "{'a': 1}", '{"a": 1} x', long])
    quotes = "Expecting property name enclosed in double quotes in column"
    assert broken_of(path) == [
        ("not_json", f"{quotes} 9; one object a line, or name the file .json"),
        ("not_json", f"{quotes} 2"),
        ("not_json", "Extra data in column 10"),
        ("not_json", "a number of thousands of digits"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_objects_over_several_lines_are_rows(name: str, tmp_path: Path) -> None:
    text = "\n".join(json.dumps(row, indent=2) for row in (A, B, C))
    assert seen(written(tmp_path / name, text.encode())) == [(1, A), (2, B), (3, C)]
    # what is none of both is told line by line
    found = seen(written(tmp_path / name, f"{{\n{json.dumps(A)}\n".encode()))
    assert found == [(1, "not_json"), (2, A)]
