"""What every kind of source has in common: what it is asked for, and what it returns."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.common.address import Address
from rlhf.common.errors import SourceError
from rlhf.common.files import tree_sha256
from rlhf.data.files import UNREAD_HINT, data_files

# Never pickles, never code.
MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
# The use of a request for the base model; all others are lists of the section `data`.
MODEL = "model"
# Weights in other formats: pickles, which run code when they are read, and those of other programs.
_OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"}
# How many files that are not read a message names.
_MAX_NAMED = 10

log = logging.getLogger(__name__)


def check_weights(directory: Path) -> None:
    """Refuse a model directory without safetensors, naming what lies there instead; raises SourceError."""
    if any(directory.glob("*.safetensors")):
        return
    others = sorted(path.name for path in directory.iterdir() if path.suffix in _OTHER_WEIGHTS)
    if not others:
        raise SourceError("no *.safetensors weights")
    raise SourceError(
        f"no *.safetensors weights, only {', '.join(others[:_MAX_NAMED])}; other formats are not "
        "accepted: where you trust it, load it with transformers and save_pretrained"
    )


@dataclass(frozen=True)
class FetchRequest:
    """One address to fetch.

    use: MODEL, or the list of `data` that names the address (sft, preferences, ...)
    root: the directory that relative paths start from
    seed: the run's root seed
    pin: the expected sha256 (of the wheel, or of the directory tree); None when nothing is pinned
    """

    address: Address
    use: str
    root: Path
    seed: int
    pin: str | None = None


@dataclass(frozen=True)
class FetchResult:
    """What identifies the files that were fetched.

    revision: their version at the origin, "" where the origin has no versions
    sha256: what a pin is compared with
    """

    revision: str
    sha256: str


@dataclass(frozen=True)
class FoundData:
    """The data files of an address, where they lie.

    base: the folder that their names start from; names can tell the kind of rows
    unread: the names of files that lie beside them and are not read
    revision: as in FetchResult
    """

    base: Path
    files: Sequence[Path]
    unread: Sequence[str] = ()
    revision: str = ""


class Source:
    """A kind of source. It is made without arguments.

    A kind that serves models overrides `fetch_model`, one that serves data overrides `fetch_data`.
    What it does not override it refuses. Both get a directory that exists and is empty.
    """

    def check_use(self, request: FetchRequest) -> None:
        """Refuse a use that this kind of source does not serve; raises SourceError."""
        method = "fetch_model" if request.use == MODEL else "fetch_data"
        # the methods of this class refuse; a kind that serves the use has its own
        if getattr(type(self), method) is getattr(Source, method):
            raise _not_served(request)

    def check(self, request: FetchRequest) -> None:
        """Refuse what is wrong with the address, without using a network; raises SourceError."""

    def fetch_model(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Write a Hugging Face model directory; raises SourceError."""
        raise _not_served(request)

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Write data files (`rlhf.data.files.DATA_SUFFIXES`); raises SourceError.

        Folders stay as they are at the origin where their names carry meaning (harmless-base).
        """
        raise _not_served(request)

    def find_data(self, request: FetchRequest, directory: Path) -> FoundData:
        """Find the data files without copying them, where that can be; raises SourceError.

        directory: where a kind that makes its files writes them
        """
        self.fetch_data(request, directory)
        return FoundData(directory, data_files(directory))


def _not_served(request: FetchRequest) -> SourceError:
    wanted = "models" if request.use == MODEL else "data"
    return SourceError(f"{request.address}: this kind of source brings no {wanted}")


def check_pin(request: FetchRequest, sha256: str) -> None:
    """Compare a hash with the pin; raises SourceError that names both."""
    if request.pin is None:
        return
    pin = request.pin.lower()
    if pin != sha256:
        raise SourceError(f"{request.address}: sha256 is {sha256}, but the settings pin {pin}")


def copy_files(paths: Iterable[Path], base: Path, directory: Path) -> None:
    """Copy files from below `base` to the same relative paths below `directory`.

    Links are followed.
    """
    for path in paths:
        target = directory / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def copy_found(request: FetchRequest, found: FoundData, directory: Path) -> FetchResult:
    """Copy data files, name what is not read, and compare the hash with the pin."""
    tell_unread(request, found.unread)
    copy_files(found.files, found.base, directory)
    return verified_result(request, directory, found.revision)


def tell_unread(request: FetchRequest, unread: Sequence[str]) -> None:
    """Name in the log what lies beside data files."""
    if unread:
        log.warning("%s: not read: %s; %s", request.address, named_files(unread), UNREAD_HINT)


def named_files(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def verified_result(request: FetchRequest, directory: Path, revision: str = "") -> FetchResult:
    """Hash a filled directory and compare the hash with the pin; raises SourceError."""
    sha256 = tree_sha256(directory)
    check_pin(request, sha256)
    return FetchResult(revision, sha256)
