import gzip
from pathlib import Path

import pandas as pd
import pytest
from raw_files import write_lines

from rlhf.common.errors import DataError
from rlhf.data.read import kind_from_path, published_split, read_rows
from rlhf.data.rows import BrokenRow


def test_bad_lines_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, "{oops", "", "[1]", {"text": "two"}])
    path.write_bytes(path.read_bytes() + b'{"text": "\xff"}\n')
    seen = [
        (line, row.reason if isinstance(row, BrokenRow) else row["text"])
        for line, row in read_rows(path)
    ]
    assert seen == [(1, "one"), (2, "not_json"), (4, "not_an_object"), (5, "two"), (6, "not_utf8")]


def test_gzip_and_parquet_read_alike(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"messages": [{"role": "user", "content": "How?"}]},
    ]
    packed = write_lines(tmp_path / "a.jsonl.gz", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert (
        list(read_rows(packed))
        == list(read_rows(tmp_path / "a.parquet"))
        == [(1, rows[0]), (2, rows[1])]
    )


def test_cut_off_files_are_refused_by_name(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "one"}\n' * 500)[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read to its end"):
        list(read_rows(packed))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"a\.parquet: not readable"):
        list(read_rows(tmp_path / "a.parquet"))


def test_names_tell_split_and_kind() -> None:
    splits = {
        "x/train.jsonl.gz": "train",
        "test-00000-of-00001.parquet": "test",
        "testimony.jsonl": None,
        "data.jsonl": None,
    }
    assert {name: published_split(Path(name)) for name in splits} == splits
    kinds = {
        "harmless-base/train.jsonl": "harmless",
        "helpful-online/x/a.jsonl": "helpful",
        "hh/a.jsonl": None,
    }
    assert {name: kind_from_path(Path(name)) for name in kinds} == kinds
