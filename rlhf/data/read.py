"""Reading data files row by row: JSON lines, JSON arrays, CSV and parquet."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from rlhf.common.errors import DataError
from rlhf.data.csv_rows import check_names, has_quoted_cells, read_csv_rows, read_tsv_rows
from rlhf.data.files import PACKED_SUFFIXES
from rlhf.data.json_rows import holds_lines, read_json_rows
from rlhf.data.ledger import REFETCH_HINT
from rlhf.data.rows import ReadRow
from rlhf.data.text import open_text

_PARQUET_BATCH = 1024


def read_rows(path: Path) -> Iterator[ReadRow]:
    """Yield the rows of a file with their lines from 1; of an array or a table, the number of the row.

    What is no JSON object is a BrokenRow. Raises DataError when the file as a whole is unreadable
    (cut-off gzip, no parquet), UnreadableFile where that is so from its beginning on.
    """
    name = _plain_name(path)
    if name.endswith(".parquet"):
        yield from _read_parquet(path)
        return

    if name.endswith(".tsv"):
        with open_text(path, newline="") as stream:
            quoted = has_quoted_cells(stream)
        with open_text(path, newline="") as stream:
            yield from read_tsv_rows(path, stream, quoted=quoted)
    elif name.endswith(".csv"):
        with open_text(path, newline="") as stream:
            yield from read_csv_rows(path, stream)
    else:
        with open_text(path) as stream:
            yield from read_json_rows(path, stream, is_whole=name.endswith(".json"))


def file_format(path: Path) -> str:
    """What `read_rows` takes a file for: JSON lines, JSON, CSV, TSV or parquet.

    Raises DataError as `open_text` does.
    """
    name = _plain_name(path)
    for suffix, title in ((".parquet", "parquet"), (".csv", "CSV"), (".tsv", "TSV")):
        if name.endswith(suffix):
            return title
    with open_text(path) as stream:
        return "JSON lines" if holds_lines(stream, is_whole=name.endswith(".json")) else "JSON"


def _plain_name(path: Path) -> str:
    """The name of a file in small letters, without what tells its packing."""
    name = path.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _read_parquet(path: Path) -> Iterator[ReadRow]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_fields(path, list(schema))
            line = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for row in batch.to_pylist():
                    line += 1
                    yield ReadRow(line, row)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(path, f"not readable as parquet: {error}; {REFETCH_HINT}") from None


def _check_fields(path: Path, fields: list[pyarrow.Field]) -> None:
    """Refuse two columns of one name, those within a column too; raises DataError."""
    check_names(path, [field.name for field in fields])
    for field in fields:
        _check_fields(path, [field.type.field(place) for place in range(field.type.num_fields)])
