"""Rows of tables that are text: CSV and TSV. Cells are text."""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

from rlhf.common.errors import DataError
from rlhf.data.json_values import check_keys, load_json
from rlhf.data.ledger import REFETCH_HINT
from rlhf.data.rows import BrokenRow, ReadRow, RowOrFault
from rlhf.data.text import NOT_UTF8, is_utf8

_LONGEST_CELL = 2**31 - 1
_SEPARATORS = ",;\t|"
# the first line of some spreadsheets' CSV
_TOLD_SEPARATOR = re.compile(r"sep=([,;|\t])\r?\n?")
# what programs write where there is no value; an empty cell is empty text
_MISSING_CELLS = frozenset(
    {"NaN", "nan", "None", "null", "NULL", "NA", "<NA>", "N/A", "n/a", "#N/A"}
)
# A list of messages in a cell: JSON, and as Python prints it, which pandas writes to CSV.
_KEY = "(?:role|content|from|value)"
_MESSAGES = re.compile(rf'\s*\[\s*\{{\s*"{_KEY}"\s*:')
_PRINTED_MESSAGES = re.compile(rf"\s*\[\s*\{{\s*'{_KEY}'\s*:.*\]\s*", re.DOTALL)
# with a quote inside doubled
_QUOTED_CELL = re.compile(r'"(?:[^"]|"")*"')


def read_csv_rows(path: Path, stream: TextIO) -> Iterator[ReadRow]:
    """Rows of a table with commas, semicolons, tabs or bars, as its first line has them."""
    csv.field_size_limit(_LONGEST_CELL)
    header, line = stream.readline(), 1
    told = _TOLD_SEPARATOR.fullmatch(header)
    if told:
        header, line = stream.readline(), 2
    # those within quotes separate nothing
    bare = _QUOTED_CELL.sub("", header)
    separator = told[1] if told else max(_SEPARATORS, key=bare.count)
    yield from _read_table(path, chain([header], stream), separator, line)


def read_tsv_rows(path: Path, stream: TextIO, *, quoted: bool) -> Iterator[ReadRow]:
    """Rows of a table with tabs; quoted: whether quotes hold cells together (`has_quoted_cells`)."""
    csv.field_size_limit(_LONGEST_CELL)
    yield from _read_table(path, stream, "\t", quoted=quoted)


def has_quoted_cells(stream: TextIO) -> bool:
    """Whether quotes hold the cells of a TSV file together, as spreadsheets write it; else they are text.

    They do if the file can be read so to its end, and that breaks fewer rows than splitting at tabs
    does. Where both break as many, quotes are text if some cell begins with one that does not close it.
    """
    csv.field_size_limit(_LONGEST_CELL)
    columns, broken_lines, stray = 0, 0, False

    def lines() -> Iterator[str]:
        nonlocal columns, broken_lines, stray
        for line in stream:
            cells = line.rstrip("\r\n").split("\t")
            columns = columns or len(cells)
            opened = (cell for cell in cells if cell.startswith('"'))
            if cells != [""] and len(cells) != columns:
                broken_lines += 1
            elif any(not _QUOTED_CELL.fullmatch(cell) for cell in opened):
                stray = True
            yield line

    try:
        sizes = [len(row) for row in csv.reader(lines(), delimiter="\t", strict=True) if row]
    except csv.Error:
        return False
    broken_rows = sum(size != sizes[0] for size in sizes)
    return broken_rows < broken_lines or (broken_rows == broken_lines and not stray)


def _read_table(
    path: Path, lines: Iterator[str], separator: str, first: int = 1, *, quoted: bool = True
) -> Iterator[ReadRow]:
    """The first line names the columns, and an empty cell is empty text.

    first: the number of that line; quoted: whether quotes hold cells together; else they are text
    """
    quotes: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.DictReader(lines, delimiter=separator, quoting=quotes, strict=True)
    line = first
    try:
        reader.fieldnames = _names(path, list(reader.fieldnames or []), first)
        line = reader.line_num + first
        for row in reader:
            yield ReadRow(line, _checked_cells(row))
            line = reader.line_num + first
    except csv.Error as error:
        raise DataError(path, f"not readable as CSV: {error}; {REFETCH_HINT}", line) from None


def _names(path: Path, header: list[str], line: int) -> list[str]:
    """The names of the columns; one without a name is called by its place."""
    # blanks after the separator are no part of a name
    found = [name.strip() for name in header]
    names = [name or f"column {place} without a name" for place, name in enumerate(found, start=1)]
    check_names(path, names, line)
    return names


def check_names(path: Path, names: list[str], line: int | None = None) -> None:
    """Refuse columns of one name, of which the last one would win; raises DataError."""
    if len(set(names)) < len(names):
        raise DataError(path, f"two columns of one name: {', '.join(names)}", line)


def _checked_cells(row: dict[str, Any]) -> RowOrFault:
    # the reader puts None where cells are too many or too few
    if None in row or None in row.values():
        return BrokenRow("wrong_number_of_cells")
    if not all(is_utf8(cell) for cell in row.values()):
        return BrokenRow(*NOT_UTF8)
    try:
        return {name: _value(name, cell) for name, cell in row.items()}
    except BrokenRow as broken:
        return broken


def _value(name: str, cell: str) -> Any:
    """Text, but for what says that there is none and for a list of messages; raises BrokenRow."""
    if cell in _MISSING_CELLS:
        return None
    if _PRINTED_MESSAGES.fullmatch(cell):
        raise BrokenRow(
            "not_json",
            f"{name}: messages as Python prints them; in a table they are JSON (json.dumps), or write "
            "JSON lines or parquet",
        )
    if not _MESSAGES.match(cell):
        return cell
    try:
        found = load_json(cell)
    # text that begins so
    except (ValueError, RecursionError):
        return cell
    check_keys(found)
    return found
