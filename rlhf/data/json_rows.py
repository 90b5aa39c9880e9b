"""Rows of JSON: lines, an array, or objects over several lines."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from rlhf.data.json_values import KeyTwice, check_keys, load_json, load_values
from rlhf.data.names import SPLIT_NAMES
from rlhf.data.records import PublishedSplit
from rlhf.data.rows import BrokenRow, ReadRow, RowOrFault, UnreadableFile
from rlhf.data.shapes.columns import is_empty
from rlhf.data.shapes.table import KNOWN_COLUMNS
from rlhf.data.text import NOT_UTF8, is_utf8

# Half of a surrogate pair: JSON may name one alone, but text may not hold it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# The keys under which an object may hold rows of a whole file, beside the names of splits.
_WRAPPERS = ("data", "rows")
_BY_COLUMNS = (
    "one object holds the cells of each column together, as pandas' to_json() and datasets' to_dict() "
    "give them: rows are wanted, to_json(FILE, orient='records', lines=True)"
)
# Characters of a line: a longer one is no row but a file that lost its line ends, and would fill the memory.
LONGEST_ROW = 2**25


def read_json_rows(path: Path, stream: TextIO, *, is_whole: bool) -> Iterator[ReadRow]:
    """Lines, one array, or objects over several lines each, whatever the name of the file says.

    is_whole: whether all of the file may be one object, as in `.json`

    Raises UnreadableFile for an object that holds rows in a place where they would be lost.
    """
    head = _up_to_first_row(stream)
    if _is_lines(head, is_whole=is_whole):
        yield from _read_lines(head, stream)
        return

    text = "".join([*head, stream.read()])
    values = _values(text, is_spread=_is_spread(head))
    if values is None:
        yield from _read_lines([], io.StringIO(text))
        return
    rows = _unwrapped(path, values[0]) if len(values) == 1 else [(row, None) for row in values]
    is_doubtful = _SURROGATE.search(text) is not None or not is_utf8(text)
    for number, (row, split) in enumerate(rows, start=1):
        yield ReadRow(number, _checked(row, is_doubtful=is_doubtful), split)


def holds_lines(stream: TextIO, *, is_whole: bool) -> bool:
    """Whether a file is read line by line; is_whole as of `read_json_rows`."""
    return _is_lines(_up_to_first_row(stream), is_whole=is_whole)


def _is_lines(head: Sequence[str], *, is_whole: bool) -> bool:
    return not (is_whole or head[-1].lstrip().startswith("[") or _is_spread(head))


def _is_spread(head: Sequence[str]) -> bool:
    """Whether the first object goes over several lines, as programs write it for people."""
    return head[-1].strip() == "{"


def _up_to_first_row(stream: TextIO) -> list[str]:
    """The first line that is not blank, as far as a row may reach, and the blank ones before it."""
    head = [stream.readline(LONGEST_ROW)]
    while head[-1] and not head[-1].strip():
        head.append(stream.readline(LONGEST_ROW))
    return head


# -- whole files --


def _values(text: str, *, is_spread: bool) -> list[Any] | None:
    """The one JSON value of a text, or its objects where they are spread; None where it has neither."""
    try:
        return load_values(text) if is_spread else [load_json(text)]
    # RecursionError for brackets, ValueError for a number of thousands of digits
    except (ValueError, RecursionError):
        return None


def _unwrapped(path: Path, value: Any) -> list[tuple[Any, PublishedSplit]]:
    """The rows of an array, or of an object around arrays, with the split that its key names.

    Any other object that has a column of a row is one.
    """
    if isinstance(value, list):
        return [(row, None) for row in value]
    if not isinstance(value, dict) or isinstance(value, KeyTwice):
        return [(value, None)]
    lists = [key for key, rows in value.items() if _has_objects(rows)]
    around = [key for key in lists if key in _WRAPPERS or key.lower() in SPLIT_NAMES]
    if not around:
        if _is_by_columns(value):
            raise UnreadableFile(path, _BY_COLUMNS)
        return _under_another_key(path, value, lists)

    lost = [key for key in lists if key not in around]
    lost += [key for key in KNOWN_COLUMNS if key not in lists and not is_empty(value.get(key))]
    if lost:
        raise UnreadableFile(
            path,
            f"rows stand under {', '.join(around)}, and what stands beside them under {', '.join(lost)} "
            f"would be lost: rows may stand under {', '.join(_WRAPPERS)} and the names of splits "
            f"({', '.join(SPLIT_NAMES)})",
        )
    return [(row, SPLIT_NAMES.get(key.lower())) for key in around for row in value[key]]


def _under_another_key(
    path: Path, value: dict[str, Any], lists: Sequence[str]
) -> list[tuple[Any, PublishedSplit]]:
    """The rows under a key of any name (examples), where the object has no column of a row."""
    # a column of Self-Instruct's rows, and where LMFlow has all rows
    others = [key for key in lists if key not in KNOWN_COLUMNS or key == "instances"]
    if not others or any(
        key not in others and not is_empty(value.get(key)) for key in KNOWN_COLUMNS
    ):
        return [(value, None)]
    if len(others) > 1:
        raise UnreadableFile(
            path,
            f"objects stand under {', '.join(others)}, and nothing says which are rows: keep them "
            f"under one key, or under names of splits ({', '.join(SPLIT_NAMES)})",
        )
    return [(row, None) for row in value[others[0]]]


def _is_by_columns(value: dict[str, Any]) -> bool:
    """Whether an object holds the cells of each column together: by number, or as lists of one length."""
    columns = list(value.values())
    if len(columns) < 2 or not any(key in KNOWN_COLUMNS for key in value):
        return False
    if all(isinstance(cells, dict) and cells for cells in columns):
        return all(key.isdigit() for cells in columns for key in cells)
    if not all(isinstance(cells, list) and cells for cells in columns):
        return False
    return len({len(cells) for cells in columns}) == 1 and not any(map(_has_objects, columns))


def _has_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


# -- lines --


def _read_lines(head: Sequence[str], stream: TextIO) -> Iterator[ReadRow]:
    """Rows of lines; head: what was read of the stream before."""
    for number, line in enumerate(_lines(head, stream), start=1):
        if isinstance(line, BrokenRow):
            yield ReadRow(number, line)
        # empty lines are no rows, but they are counted
        elif line.strip():
            yield ReadRow(number, _parse_line(line))


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
        # files with a byte order mark may have been joined
        value = load_json(line.rstrip().removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        return BrokenRow("not_json", _fault(error))
    except RecursionError:
        return BrokenRow("not_json", "brackets within brackets, too deep")
    except ValueError:
        return BrokenRow("not_json", "a number of thousands of digits")
    return _checked(value, is_doubtful=_SURROGATE.search(line) is not None)


def _fault(error: json.JSONDecodeError) -> str:
    told = f"{error.msg} in column {error.colno}"
    # an object that goes on in the next line
    is_open = error.pos >= len(error.doc)
    return f"{told}; one object a line, or name the file .json" if is_open else told


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
    if not isinstance(value, dict):
        return BrokenRow("not_an_object")
    try:
        check_keys(value)
    except BrokenRow as broken:
        return broken
    return value
