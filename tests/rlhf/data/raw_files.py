"""Writing small raw files, and bringing them, for the data tests."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.sources import Request, find_source


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


def bring(
    address: str, directory: Path, use: str = "model", root: Path = Path(), pin: str | None = None
) -> str:
    """Bring one address; gives the sha256 of what came."""
    source, rest = find_source(address)
    directory.mkdir(parents=True, exist_ok=True)
    request = Request(address, rest, use, root, 1, pin)
    return (
        source.bring_model(request, directory)
        if use == "model"
        else source.bring_data(request, directory)
    ).sha256
