"""What the names of files tell: the split and the kind of their rows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.data.records import Kind, PublishedSplit

SPLIT_NAMES: Mapping[str, PublishedSplit] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    # as the library datasets has it; `evaluation` is the name of a list of ours, whatever splits it needs
    "eval": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def published_split(path: Path) -> PublishedSplit:
    """The split that a file's name shows (train.jsonl.gz, validation-00000-of-00001.parquet)."""
    match = re.match(r"([a-z]+)(?=[-_.])", path.name.lower())
    return SPLIT_NAMES.get(match[1]) if match else None


def published_splits(paths: Sequence[Path]) -> Mapping[Path, PublishedSplit]:
    """The split of each file of an address: by its name, else by its folder (train/0.parquet).

    Folders count where one is called train and another one test or validation: a folder of any such
    name alone may be anybody's.
    """
    folders = {path: _split_of_folder(path) for path in paths}
    told = set(folders.values()) - {None}
    by_folder = "train" in told and len(told) > 1
    return {path: published_split(path) or (folders[path] if by_folder else None) for path in paths}


def _split_of_folder(path: Path) -> PublishedSplit:
    """What the nearest folder that is called as a split tells."""
    names = (SPLIT_NAMES.get(part.lower()) for part in reversed(path.parent.parts))
    return next((split for split in names if split), None)


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
