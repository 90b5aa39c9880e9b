"""What every kind of source has in common: an address, and what it brought."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlhf.common.errors import SourceError
from rlhf.common.files import tree_sha256

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")  # never pickles, never code


@dataclass(frozen=True)
class Request:
    """One address to bring.

    rest: the address without its scheme
    use: "model", or the section of `data` that asks (sft, preferences, ...)
    root: relative paths start here
    pin: expected sha256 (of the wheel, or of the directory tree), None when nothing is pinned
    seed: the run's root seed
    """

    address: str
    rest: str
    use: str
    root: Path
    seed: int
    pin: str | None = None


@dataclass(frozen=True)
class Brought:
    """What came: `revision` names it at its origin ("" where origins have no versions), `sha256` is what a pin compares."""

    revision: str
    sha256: str


class Source:
    """A kind of source; it fills `directory` (empty, there already). What a kind cannot bring it refuses."""

    def refuse_other_use(self, request: Request) -> None:
        """Refuse a use that this kind of source does not serve; raises SourceError."""
        name = "bring_model" if request.use == "model" else "bring_data"
        if getattr(type(self), name) is getattr(Source, name):
            getattr(self, name)(request, request.root)  # which refuses

    def check(self, request: Request) -> None:
        """Refuse what can be told from the address and this machine alone; raises SourceError."""

    def bring_model(self, request: Request, directory: Path) -> Brought:
        """Write a Hugging Face model directory; raises SourceError."""
        raise SourceError(f"{request.address}: this kind of source brings no models")

    def bring_data(self, request: Request, directory: Path) -> Brought:
        """Write data files (DATA_SUFFIXES), folders kept where their names carry meaning; raises SourceError."""
        raise SourceError(f"{request.address}: this kind of source brings no data")


def check_pin(request: Request, found: str) -> None:
    """Compare a hash with the pin; raises SourceError that names both."""
    if request.pin is not None and request.pin.lower() != found:
        raise SourceError(
            f"{request.address}: sha256 is {found}, but the settings pin {request.pin.lower()}"
        )


def copy_files(paths: Iterable[Path], base: Path, directory: Path) -> None:
    """Copy files to the same places below `directory` that they have below `base` (links are followed)."""
    for path in paths:
        target = directory / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def data_files(root: Path) -> list[Path]:
    """List the data files below a directory, sorted, hidden ones left out."""
    files = (
        path for path in root.rglob("*") if path.is_file() and path.name.endswith(DATA_SUFFIXES)
    )
    return sorted(
        path
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def brought_tree(request: Request, directory: Path, revision: str = "") -> Brought:
    """Hash a filled directory and check it against the pin."""
    found = tree_sha256(directory)
    check_pin(request, found)
    return Brought(revision, found)
