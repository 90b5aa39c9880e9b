"""What the names of files tell: the split and the kind of their rows."""

import re
from collections.abc import Mapping
from pathlib import Path

from rlhf.data.records import Kind, PublishedSplit

SPLIT_NAMES: Mapping[str, PublishedSplit] = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def published_split(path: Path) -> PublishedSplit:
    """The split that a file's name shows (train.jsonl.gz, validation-00000-of-00001.parquet)."""
    match = re.match(r"([a-z]+)(?=[-_.])", path.name.lower())
    return SPLIT_NAMES.get(match[1]) if match else None


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
