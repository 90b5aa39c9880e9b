"""Reading data files row by row: JSON lines, JSON arrays, CSV and parquet."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import pyarrow
import pyarrow.parquet

from rlhf.common.errors import DataError
from rlhf.data.files import PACKED_SUFFIXES
from rlhf.data.ledger import REFETCH_HINT
from rlhf.data.records import Kind, PublishedSplit
from rlhf.data.rows import BrokenRow
from rlhf.data.text import NOT_UTF8, is_utf8, open_text

RowOrFault = dict[str, Any] | BrokenRow
NumberedRows = Iterator[tuple[int, RowOrFault]]

# Half of a surrogate pair: JSON may name one alone, but text may not hold it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PARQUET_BATCH = 1024
# The key under which an object may hold the rows of a whole file.
_WRAPPER = "data"
_SPLITS: dict[str, PublishedSplit] = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_LONGEST_CELL = 2**31 - 1
# what libraries of tables write where there is no value; an empty cell is empty text
_MISSING_CELLS = ("NaN", "nan")
# with a quote inside doubled
_QUOTED_CELL = re.compile(r'"(?:[^"]|"")*"')
# Characters of a line: a longer one is no row but a file that lost its line ends, and would fill the memory.
LONGEST_ROW = 2**25


def read_rows(path: Path) -> NumberedRows:
    """Yield (line, row) of a file, lines from 1; of an array or a table, the number of the row.

    What is no JSON object is a BrokenRow. Raises DataError when the file as a whole is unreadable
    (cut-off gzip, no parquet), UnreadableFile where that is so from its beginning on.
    """
    name = _plain_name(path)
    if name.endswith(".parquet"):
        yield from _read_parquet(path)
        return

    if name.endswith(".tsv"):
        with open_text(path, newline="") as stream:
            quoted = _has_quoted_cells(stream)
        with open_text(path, newline="") as stream:
            yield from _read_table(path, stream, "\t", quoted=quoted)
    elif name.endswith(".csv"):
        with open_text(path, newline="") as stream:
            yield from _read_table(path, stream, None)
    else:
        with open_text(path) as stream:
            yield from _read_json(stream, is_whole=name.endswith(".json"))


def file_format(path: Path) -> str:
    """What `read_rows` takes a file for: JSON lines, JSON, CSV, TSV or parquet.

    Raises DataError as `open_text` does.
    """
    name = _plain_name(path)
    for suffix, title in ((".parquet", "parquet"), (".csv", "CSV"), (".tsv", "TSV")):
        if name.endswith(suffix):
            return title
    with open_text(path) as stream:
        is_lines = _is_lines(_up_to_first_row(stream), is_whole=name.endswith(".json"))
    return "JSON lines" if is_lines else "JSON"


def _plain_name(path: Path) -> str:
    """The name of a file in small letters, without what tells its packing."""
    name = path.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


# -- JSON --


def _read_json(stream: TextIO, *, is_whole: bool) -> NumberedRows:
    """Lines, or one array, whatever the name of the file says.

    is_whole: whether all of the file may be one object, as in `.json`
    """
    head = _up_to_first_row(stream)
    if _is_lines(head, is_whole=is_whole):
        yield from _read_lines(head, stream)
        return

    text = "".join([*head, stream.read()])
    rows = _rows_of_whole(text)
    if rows is None:
        yield from _read_lines([], io.StringIO(text))
        return
    is_doubtful = _SURROGATE.search(text) is not None or not is_utf8(text)
    for number, row in enumerate(rows, start=1):
        yield number, _checked(row, is_doubtful=is_doubtful)


def _is_lines(head: Sequence[str], *, is_whole: bool) -> bool:
    return not is_whole and not head[-1].lstrip().startswith("[")


def _up_to_first_row(stream: TextIO) -> list[str]:
    """The first line that is not blank, as far as a row may reach, and the blank ones before it."""
    head = [stream.readline(LONGEST_ROW)]
    while head[-1] and not head[-1].strip():
        head.append(stream.readline(LONGEST_ROW))
    return head


def _rows_of_whole(text: str) -> list[Any] | None:
    """The rows of a text that is one JSON value, None where it is not."""
    try:
        value = json.loads(text)
    # RecursionError for brackets, ValueError for a number of thousands of digits
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        return value
    # one object: a row, or a wrapper around all rows
    wrapped = value.get(_WRAPPER) if isinstance(value, dict) else None
    return wrapped if isinstance(wrapped, list) else [value]


def _read_lines(head: Sequence[str], stream: TextIO) -> NumberedRows:
    """Rows of lines; head: what was read of the stream before."""
    for number, line in enumerate(_lines(head, stream), start=1):
        if isinstance(line, BrokenRow):
            yield number, line
        # empty lines are no rows, but they are counted
        elif line.strip():
            yield number, _parse_line(line)


def _lines(head: Sequence[str], stream: TextIO) -> Iterator[str | BrokenRow]:
    """The lines, none of them longer than a row may be: of a longer one the size alone is kept."""
    parts = chain(head, iter(lambda: stream.readline(LONGEST_ROW), ""))
    for part in parts:
        size, is_whole = len(part), part.endswith("\n")
        while not is_whole and (rest := next(parts, "")):
            size += len(rest)
            is_whole = rest.endswith("\n")
        if size == len(part):
            yield part
        else:
            yield BrokenRow(
                "row_too_long", f"{size:,} characters, at most {LONGEST_ROW:,} are read"
            )


def _parse_line(line: str) -> RowOrFault:
    if not is_utf8(line):
        return BrokenRow(*NOT_UTF8)
    try:
        value = json.loads(line)
    # RecursionError for brackets, ValueError for a number of thousands of digits
    except (ValueError, RecursionError):
        return BrokenRow("not_json")
    return _checked(value, is_doubtful=_SURROGATE.search(line) is not None)


def _checked(value: Any, *, is_doubtful: bool) -> RowOrFault:
    """A row whose text is text; is_doubtful: whether halves of characters may be in it."""
    if is_doubtful:
        text = json.dumps(value, ensure_ascii=False)
        if not is_utf8(text):
            return BrokenRow(*NOT_UTF8)
        try:
            text.encode()
        except UnicodeEncodeError:
            return BrokenRow("half_a_character")
    return value if isinstance(value, dict) else BrokenRow("not_an_object")


# -- tables --


def _has_quoted_cells(stream: TextIO) -> bool:
    """Whether quotes hold the cells of a TSV file together, as spreadsheets write it; else they are text.

    They are text where splitting at tabs gives each line as many cells as the first has, and some cell
    begins with a quote that does not close it.
    """
    columns, stray = None, False
    for line in stream:
        cells = line.rstrip("\r\n").split("\t")
        columns = columns or len(cells)
        if len(cells) != columns:
            return True
        opened = (cell for cell in cells if cell.startswith('"'))
        stray = stray or any(not _QUOTED_CELL.fullmatch(cell) for cell in opened)
    return not stray


def _read_table(
    path: Path, stream: TextIO, separator: str | None, *, quoted: bool = True
) -> NumberedRows:
    """The first row names the columns; cells are text, and an empty one is empty text.

    separator: None where the header tells: a comma, a semicolon or a tab
    quoted: whether quotes hold cells together; else they are text
    """
    csv.field_size_limit(_LONGEST_CELL)
    header = stream.readline()
    separator = separator or max(",;\t", key=header.count)
    quotes: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = chain([header], stream)
    reader = csv.DictReader(lines, delimiter=separator, quoting=quotes, strict=True)
    # blanks after the separator are no part of a name
    names = [name.strip() for name in reader.fieldnames or []]
    if len(set(names)) < len(names):
        raise DataError(path, f"two columns of one name: {', '.join(names)}", 1)
    reader.fieldnames = names

    line = reader.line_num + 1
    try:
        for row in reader:
            yield line, _checked_cells(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(path, f"not readable as CSV: {error}; {REFETCH_HINT}", line) from None


def _checked_cells(row: dict[str, Any]) -> RowOrFault:
    # the reader puts None where cells are too many or too few
    if None in row or None in row.values():
        return BrokenRow("wrong_number_of_cells")
    if not all(is_utf8(cell) for cell in row.values()):
        return BrokenRow(*NOT_UTF8)
    return {name: None if cell in _MISSING_CELLS else cell for name, cell in row.items()}


def _read_parquet(path: Path) -> NumberedRows:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            line = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(path, f"not readable as parquet: {error}; {REFETCH_HINT}") from None


# -- names --


def published_split(path: Path) -> PublishedSplit:
    """The split that a file's name shows (train.jsonl.gz, validation-00000-of-00001.parquet)."""
    match = re.match(r"([a-z]+)(?=[-_.])", path.name.lower())
    return _SPLITS.get(match[1]) if match else None


def kind_from_path(path: Path) -> Kind | None:
    """The kind of rows that names in a path show (harmless-base/train.jsonl.gz).

    The name nearest to the file counts.
    """
    for part in reversed(path.parts):
        # unhelpful is not helpful
        words = re.findall(r"(?<![a-z])(?:harmless|helpful)", part.lower())
        if words:
            return "harmless" if "harmless" in words else "helpful"
    return None
