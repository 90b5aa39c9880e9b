"""Writing files whole or not at all, and hashing what was written."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlhf.common.errors import DataError

_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let errors of a full or broken disk name `path`; by themselves they name nothing."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            error.filename = str(path)
        raise
    # what safetensors makes of the same
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` in one step: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with writing(path):
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON with sorted keys.

    NaN and infinity raise ValueError: JSON has no such numbers.
    """
    write_text(
        path,
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n",
    )


def text_of(path: Path) -> str:
    """Read a text file; raises DataError that names it when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; raises DataError that names the file when it is missing or is not an object."""
    try:
        value = json.loads(text_of(path))
    except FileNotFoundError:
        raise DataError(path, "no such file; run the stage that writes it (dvc repro)") from None
    except json.JSONDecodeError as error:
        raise DataError(path, f"not JSON: {error.msg}", error.lineno) from None
    if not isinstance(value, dict):
        raise DataError(path, f"expected a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def staged_directory(final: Path) -> Iterator[Path]:
    """Give an empty directory to fill; it takes the name `final` only if the block ends well.

    Left-overs of killed runs are removed on entry, and the block's own on any exception, Ctrl-C
    included. What was there before stays whole until then.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for stale in final.parent.glob(f".{final.name}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = final.with_name(f".{final.name}.partial-{os.getpid()}")
    former = final.with_name(f"{partial.name}-former")
    partial.mkdir()
    try:
        with writing(final):
            yield partial
        _share(partial)
        if final.exists():
            final.rename(former)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _share(directory: Path) -> None:
    """Give new files the mode that the umask grants: safetensors writes for their owner alone."""
    mode = directory.stat().st_mode & 0o666
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            # a disk without modes must not cost what was trained
            with suppress(OSError):
                path.chmod(mode)


def sha256(path: Path) -> str:
    """Hash one file (hex)."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def tree_sha256(root: Path) -> str:
    """Hash a file, or a directory's relative names and contents in sorted order (hex).

    Hidden files count too.
    """
    if root.is_file():
        return sha256(root)
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256(path)}\0".encode())
    return digest.hexdigest()


def weights_sha256(directory: Path) -> str:
    """Hash the names and contents of a model's *.safetensors files (hex); notes beside them do not count."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(f"{path.name}\0{sha256(path)}\0".encode())
    return digest.hexdigest()


def tree_bytes(root: Path) -> int:
    """Count the bytes of all files below `root`."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
