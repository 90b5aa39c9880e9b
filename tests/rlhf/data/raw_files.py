"""Writing small raw files, and fetching addresses, for the data tests."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.common.files import read_json
from rlhf.data.read import read_rows
from rlhf.data.rows import BrokenRow
from rlhf.data.sources import FetchRequest, find_source
from rlhf.data.sources.base import MODEL
from rlhf.data.uses import raw_directory
from rlhf.workspace import Workspace


def write_lines(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    """Write JSON lines (a text is written as it is), gzip if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def transcript(*turns: str) -> str:
    """Write turns as the published transcripts do: Human, Assistant, Human, ..."""
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {turn}" for i, turn in enumerate(turns))


def fetch_address(
    address: str, directory: Path, use: str = MODEL, root: Path = Path(), pin: str | None = None
) -> str:
    """Fetch one address; gives the sha256 of what was fetched."""
    source, parsed = find_source(address)
    directory.mkdir(parents=True, exist_ok=True)
    request = FetchRequest(parsed, use, root, 1, pin)
    fetch = source.fetch_model if use == MODEL else source.fetch_data
    return fetch(request, directory).sha256


def replace_raw(workspace: Workspace, use: str, **files: list[Any]) -> None:
    """Put other files in place of those of a use; names are written with __ for / and _ for -."""
    directory = raw_directory(workspace.raw, use, 0)
    for path in directory.rglob("*.jsonl*"):
        path.unlink()
    for name, rows in files.items():
        file = name.replace("__", "/").replace("_", "-") + ".jsonl.gz"
        write_lines(directory / file, rows)


def pair_row(question: str, chosen: str, rejected: str = "no") -> dict[str, Any]:
    """A pair as messages with two answers."""
    return {
        "messages": [{"role": "user", "content": question}],
        "chosen": chosen,
        "rejected": rejected,
    }


def transcript_pair_row(opening: str, chosen: str) -> dict[str, Any]:
    """A pair of two turns, as published transcripts have them."""
    return {
        "chosen": transcript(opening, "a", "b", chosen),
        "rejected": transcript(opening, "a", "b", "no"),
    }


def summary_of(workspace: Workspace) -> dict[str, Any]:
    """The figures that prepare wrote."""
    return read_json(workspace.metrics("prepare"))


def written(path: Path, data: bytes) -> Path:
    """A file of these bytes."""
    path.write_bytes(data)
    return path


def seen(path: Path) -> list[tuple[int, Any]]:
    """Line and row, or the reason of one that is broken."""
    return [
        (line, row.reason if isinstance(row, BrokenRow) else row)
        for line, row, _ in read_rows(path)
    ]
