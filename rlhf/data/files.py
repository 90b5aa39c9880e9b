"""Data files: the formats that can be read, and finding them below a directory."""

from pathlib import Path

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def data_files(root: Path) -> list[Path]:
    """List the data files below a directory, sorted, hidden ones left out."""
    return sorted(path for path in root.rglob("*") if _is_visible_data_file(path, root))


def _is_visible_data_file(path: Path, root: Path) -> bool:
    if not path.name.endswith(DATA_SUFFIXES) or not path.is_file():
        return False
    # a download leaves its own caches beside the data
    return not any(part.startswith(".") for part in path.relative_to(root).parts)
