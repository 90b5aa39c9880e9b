"""`path:DIR` or `path:FILE`: a model or data on this machine; ${VARIABLES} are expanded."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from rlhf.common.errors import RlhfError, SourceError
from rlhf.data.files import DATA_SUFFIXES, UNREAD_HINT, data_files, is_data_file, unread_files
from rlhf.data.sources.base import (
    MODEL_SUFFIXES,
    FetchRequest,
    FetchResult,
    Source,
    copy_files,
    verified_result,
)

# How many files that are not read a message names.
_MAX_NAMED = 10

log = logging.getLogger(__name__)


class PathSource(Source):
    """Files that are already here. They are copied; the originals stay as they are."""

    def check(self, request: FetchRequest) -> None:
        """Find the file or directory."""
        _existing_path(request)

    def fetch_model(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Copy weights, configuration and tokenizer of a Hugging Face directory."""
        root = _existing_path(request)
        if not root.is_dir():
            raise SourceError(
                f"{request.address}: {root} is a file, expected a Hugging Face model directory"
            )

        files = [
            path
            for path in sorted(root.iterdir())
            if path.is_file() and path.name.endswith(MODEL_SUFFIXES)
        ]
        copy_files(files, root, directory)
        return verified_result(request, directory)

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Copy data files below the name of their directory, which can name the kind of rows."""
        root = _existing_path(request)
        if root.is_dir():
            files = data_files(root)
            base = root.parent
            _tell_unread(request, [path.relative_to(root) for path in unread_files(root)])
        else:
            files = [root] if is_data_file(root) else []
            # the name of its directory counts for a single file too
            base = root.parent.parent

        if not files:
            raise SourceError(
                f"{request.address}: no data files at {root}; expected {', '.join(DATA_SUFFIXES)}; "
                f"{UNREAD_HINT}"
            )
        copy_files(files, base, directory)
        return verified_result(request, directory)


def _tell_unread(request: FetchRequest, unread: Sequence[Path]) -> None:
    """Name what lies beside data files."""
    if unread:
        named = ", ".join(path.as_posix() for path in unread[:_MAX_NAMED])
        more = f" and {len(unread) - _MAX_NAMED} more" if len(unread) > _MAX_NAMED else ""
        log.warning("%s: not read: %s%s; %s", request.address, named, more, UNREAD_HINT)


def _existing_path(request: FetchRequest) -> Path:
    try:
        expanded = request.address.path
    except RlhfError as error:
        # its message begins with the address already
        raise SourceError(str(error)) from None

    # a link keeps its own name, which tells the format: the hub's cache holds hashes
    path = Path(os.path.normpath((request.root / expanded).absolute()))
    if not path.exists():
        raise SourceError(f"{request.address}: {path} does not exist")
    return path
