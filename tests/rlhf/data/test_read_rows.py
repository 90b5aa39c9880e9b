import gzip
import json
import logging
import tracemalloc
from pathlib import Path

import pandas as pd
import pyarrow
import pytest
from raw_files import fetch_address, seen, write_lines, written

from rlhf.common.errors import DataError
from rlhf.data import json_rows
from rlhf.data.files import data_files, unread_files
from rlhf.data.names import kind_from_path, published_split, published_splits
from rlhf.data.read import file_format, read_rows
from rlhf.data.rows import BrokenRow, UnreadableFile

ROWS = [{"prompt": "Warum \u2028?", "n": None}, {"prompt": "Où ça\u200b?", "n": 1}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data, asbytes=True)


def test_bad_lines_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, "{oops", "", "[1]", {"text": "two"}])
    path.write_bytes(path.read_bytes() + b'{"text": "\xff"}\n')
    assert seen(path) == [
        (1, {"text": "one"}),
        (2, "not_json"),
        (4, "not_an_object"),
        (5, {"text": "two"}),
        (6, "not_utf8"),
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES.encode()),
        ("A.JSONL", LINES.encode()),
        ("a.ndjson", LINES.replace("\n", "\r\n").encode()),
        ("a.jsonl", LINES.replace("\n", "\r").encode()),
        ("a.jsonl", LINES.encode("utf-8-sig")),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.jsonl", LINES.encode("utf-16-be")),
        ("a.jsonl", LINES.encode("utf-32")),
        ("a.jsonl.gz", gzip.compress(LINES.encode("utf-8-sig"))),
        ("a.JSONL.GZ", gzip.compress(LINES.encode())),
        ("a.jsonl.zst", zstd(LINES.encode())),
        ("a.json.zst", zstd(json.dumps(ROWS).encode())),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.json", json.dumps({"version": 1, "data": ROWS}).encode()),
        ("a.json", LINES.encode()),
        ("array.jsonl", json.dumps(ROWS, indent=1).encode("utf-8-sig")),
        ("array.jsonl", b"\n\n" + json.dumps(ROWS).encode()),
    ],
    # not by the bytes: those of gzip hold the time
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_any_packing_encoding_and_layout_is_read(
    name: str, data: bytes, tmp_path: Path
) -> None:
    assert seen(written(tmp_path / name, data)) == [(1, ROWS[0]), (2, ROWS[1])]


def test_one_object_over_many_lines_is_one_row(tmp_path: Path) -> None:
    assert seen(written(tmp_path / "a.json", json.dumps(ROWS[0], indent=4).encode())) == [
        (1, ROWS[0])
    ]


def test_gzip_and_parquet_read_alike(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"messages": [{"role": "user", "content": "How?"}]},
    ]
    packed = write_lines(tmp_path / "a.jsonl.gz", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "a.PARQUET")
    assert seen(packed) == seen(tmp_path / "a.PARQUET") == [(1, rows[0]), (2, rows[1])]


def test_foreign_bytes_are_told_with_what_mends_them(tmp_path: Path) -> None:
    line = json.dumps({"text": "voilà"}, ensure_ascii=False).encode("latin-1")
    good = b'{"text": "ok"}'
    for name, data in (
        ("a.jsonl", line + b"\n" + good),
        ("a.json", b"[" + line + b"," + good + b"]"),
    ):
        (_, broken, _), (_, row, _) = read_rows(written(tmp_path / name, data))
        assert isinstance(broken, BrokenRow) and row == {"text": "ok"}
        assert broken.reason == "not_utf8" and "iconv -f CP1252 -t UTF-8" in broken.detail
    half = written(tmp_path / "b.json", b'[{"text": "\\ud83d"}]')
    assert seen(half) == [(1, "half_a_character")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.tsv"])
def test_other_encodings_are_told_once(
    encoding: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = LINES if name == "a.jsonl" else "\ufeffprompt\tn\nWhy?\t1\n"
    path = written(tmp_path / name, text.encode(encoding))
    with caplog.at_level(logging.WARNING):
        assert seen(path) == seen(path)
        assert file_format(path) and not isinstance(seen(path)[0][1], str)
    assert [record.message for record in caplog.records] == [
        f"{path}: {encoding[:6].upper()}, not UTF-8; it is read as such"
    ]


# -- files that cannot be read ---------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_that_is_too_long_is_dropped_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 40)
    short, limit = '{"text": "one"}', json.dumps({"text": "x" * 27})
    over = json.dumps({"text": "x" * 29})
    assert (len(limit), len(over)) == (39, 41)
    path = tmp_path / "a.jsonl"
    for lines in ([short, over, limit, short], ["", over, short], [limit, over]):
        path.write_text("\n".join(lines) + end, encoding="utf-8")
        found = [
            row.reason if isinstance(row, BrokenRow) else "row" for _, row, _ in read_rows(path)
        ]
        wanted = ["row_too_long" if line == over else "row" for line in lines if line]
        assert found == wanted
    # its line, and how long it is: without its end, where it is the last one
    ((line, broken, _),) = [one for one in read_rows(path) if isinstance(one[1], BrokenRow)]
    size = 41 + len(end)
    assert (line, broken.detail) == (2, f"{size} characters, at most 40 are read")


def test_a_huge_line_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 1 << 16)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "x" * (1 << 24) + '"}\n{"text": "two"}\n', encoding="utf-8")
    tracemalloc.start()
    rows = list(read_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(rows[0][1], BrokenRow) and rows[1][:2] == (2, {"text": "two"})
    assert "16,777,229 characters" in rows[0][1].detail and peak < 1 << 20


def test_cut_off_files_are_refused_by_name(tmp_path: Path) -> None:
    text = b'{"text": "one"}\n' * 500
    for name, data in (("a.jsonl.gz", gzip.compress(text)), ("a.jsonl.zst", zstd(text))):
        path = written(tmp_path / name, data[:-20])
        with pytest.raises(DataError, match=rf"{name}: cannot be read to its end"):
            list(read_rows(path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"a\.parquet: not readable"):
        list(read_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.csv.gz"])
def test_a_file_that_is_not_packed_as_it_says_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, b"\x28\xb5\x2f\xfd not really")
    with pytest.raises(UnreadableFile, match=rf"{name}: not packed as its name says .* by hand"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jsonl", gzip.compress(LINES.encode()), "gzip, whose name must end with .gz"),
        ("a.json", zstd(LINES.encode()), "zstd, whose name must end with .zst"),
        ("a.jsonl", b"PAR1\x15\x04\x15\x90", "parquet, whose name must end with .parquet"),
        ("a.csv", b"PK\x03\x04\x14\x00\x06\x00", "zip, or a spreadsheet: .* save it as CSV"),
        ("a.json", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
        ("a.tsv", b"SQLite format 3\x00\x10\x00", "binary"),
        ("a.jsonl.gz", gzip.compress(b"a.jsonl\x00\x00\x00ustar"), "binary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_is_told_as_such(name: str, data: bytes, told: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, data)
    with pytest.raises(UnreadableFile, match=rf"{name}: not text but {told}; .*JSON") as refused:
        list(read_rows(path))
    # which would not make it one
    assert "iconv" not in str(refused.value)


# -- names and places ------------------------------------------------------------------------------


def test_names_tell_split_and_kind() -> None:
    splits = {
        "x/train.jsonl.gz": "train",
        "test-00000-of-00001.parquet": "test",
        "TEST.JSONL": "test",
        "validation.jsonl": "validation",
        "validation_matched-0.parquet": "validation",
        "val.csv": "validation",
        "dev.json": "validation",
        # as the library datasets has them
        "training.csv": "train",
        "eval.jsonl": "test",
        "evaluation.jsonl": None,
        "testimony.jsonl": None,
        "values.jsonl": None,
        "data.jsonl": None,
    }
    assert {name: published_split(Path(name)) for name in splits} == splits
    kinds = {
        "harmless-base/train.jsonl": "harmless",
        "helpful-online/x/a.jsonl": "helpful",
        "hh/a.jsonl": None,
    }
    assert {name: kind_from_path(Path(name)) for name in kinds} == kinds


def test_folders_tell_the_split_where_they_are_called_so_together() -> None:
    """As the hub has its own parquet files."""

    def splits(*names: str) -> list[str | None]:
        return list(published_splits([Path(name) for name in names]).values())

    assert splits("default/train/0.parquet", "default/Test/0.parquet", "mine/x.csv") == [
        "train",
        "test",
        None,
    ]
    assert splits("train/a.jsonl", "dev/a.jsonl", "dev/train.csv") == [
        "train",
        "validation",
        "train",
    ]
    # a folder of such a name alone is anybody's
    assert splits("test/a.jsonl", "test/b.jsonl") == [None, None]
    assert splits("dev/a.jsonl", "test/b.jsonl") == [None, None]


def test_links_are_followed_and_what_is_no_data_is_listed(tmp_path: Path) -> None:
    blob = write_lines(tmp_path / "blobs" / "0a1b", [{"text": "one"}])
    root = tmp_path / "root"
    write_lines(root / "more" / "A.JSON", [{"text": "two"}])
    (root / "train.jsonl").symlink_to(blob)
    (root / "linked").symlink_to(root / "more")
    # one that leads back
    (root / "more" / "up").symlink_to(root)
    (root / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    for name in ("notes.md", "old.jsonl.xz", "dataset_infos.json", ".hidden.jsonl"):
        (root / name).write_text("{}")

    def names(paths: list[Path]) -> list[str]:
        return [path.relative_to(root).as_posix() for path in paths]

    # a folder that is linked to as well is read once, under its own name
    assert names(data_files(root)) == ["more/A.JSON", "train.jsonl"]
    assert names(unread_files(root)) == [
        "dataset_infos.json",
        "gone.jsonl",
        "notes.md",
        "old.jsonl.xz",
    ]


def test_what_lies_beside_is_named_when_it_is_fetched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "mine" / "a.jsonl", [{"text": "one"}])
    (tmp_path / "mine" / "b.xlsx").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        fetch_address("path:mine", tmp_path / "out", "sft", tmp_path)
    (record,) = caplog.records
    assert record.message.startswith("path:mine: not read: b.xlsx; ")
    assert "to_json" in record.message


def test_a_linked_file_keeps_its_own_name(tmp_path: Path) -> None:
    blob = write_lines(tmp_path / "blobs" / "0a1b", [{"text": "one"}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").symlink_to(blob)
    fetch_address("path:mine/train.jsonl", tmp_path / "out", "sft", tmp_path)
    assert seen(tmp_path / "out" / "mine" / "train.jsonl") == [(1, {"text": "one"})]
