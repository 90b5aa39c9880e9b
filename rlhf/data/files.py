"""Data files: the formats that can be read, and finding them below a directory."""

import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
PACKED_SUFFIXES = (".gz", ".zst")
DATA_SUFFIXES = (
    *TEXT_SUFFIXES,
    *(text + packed for text in TEXT_SUFFIXES for packed in PACKED_SUFFIXES),
    ".parquet",
)
UNREAD_HINT = (
    "unpack xz, bz2 and zip files; pandas writes JSON lines of others: "
    "pandas.read_excel(FILE).to_json('FILE.jsonl', orient='records', lines=True), and of .arrow files: "
    "datasets.load_from_disk(DIRECTORY).to_json('FILE.jsonl')"
)
# What hubs and libraries keep beside data.
_NO_ROWS = (
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
    "package.json",
)


def is_data_file(path: Path) -> bool:
    """Whether the name of a file shows a format that can be read; capitals do not matter."""
    name = path.name.lower()
    return name.endswith(DATA_SUFFIXES) and name not in _NO_ROWS


def data_files(root: Path) -> list[Path]:
    """List the data files below a directory, sorted, hidden ones left out; links are followed."""
    return sorted(path for path in _visible_files(root) if is_data_file(path) and path.is_file())


def unread_files(root: Path) -> list[Path]:
    """List what lies below a directory and is no data file, sorted, hidden ones left out."""
    return sorted(
        path for path in _visible_files(root) if not (is_data_file(path) and path.is_file())
    )


def is_hidden(name: str) -> bool:
    """Whether a relative path is hidden, or below a hidden folder."""
    return any(part.startswith(".") for part in name.split("/"))


def given_names(written: str) -> int:
    """How many names a path ends with, as the settings have it: two in `../mine/a.jsonl`, none in `..`.

    Those before them, of a clone's own directory or of a home, differ from machine to machine.
    """
    parts = Path(os.path.normpath(written)).parts
    return len(list(takewhile(_is_name, reversed(parts))))


def _visible_files(root: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = Path(folder)
        # a link may lead back to a folder above it, or to one that is read under its own name
        if place.resolve() in seen:
            folders.clear()
            continue
        seen.add(place.resolve())
        names = sorted(_links_last(place / name) for name in _visible(folders))
        folders[:] = [name for _, name in names]
        yield from (place / name for name in _visible(files))


def _links_last(path: Path) -> tuple[bool, str]:
    return path.is_symlink(), path.name


def _visible(names: list[str]) -> list[str]:
    # a download leaves its own caches beside the data
    return [name for name in names if not name.startswith(".")]


def _is_name(part: str) -> bool:
    # normpath leaves `..` at the beginning only; a root has a separator
    return part != ".." and not part.startswith("~") and os.sep not in part
