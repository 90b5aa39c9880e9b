"""`path:DIR` or `path:FILE`: a model or data on this machine; ${VARIABLES} are expanded."""

import os
from pathlib import Path

from rlhf.common.errors import RlhfError, SourceError
from rlhf.data.files import (
    DATA_SUFFIXES,
    UNREAD_HINT,
    data_files,
    given_names,
    is_data_file,
    unread_files,
)
from rlhf.data.sources.base import (
    MODEL_SUFFIXES,
    FetchRequest,
    FetchResult,
    FoundData,
    Source,
    check_weights,
    copy_files,
    copy_found,
    tell_unread,
    verified_result,
)


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
        if (root / "config.json").is_file():
            try:
                # what is not copied can be named here alone
                check_weights(root)
            except SourceError as error:
                raise SourceError(f"{request.address}: {root}: {error}") from None

        files = [
            path
            for path in sorted(root.iterdir())
            if path.is_file() and path.name.endswith(MODEL_SUFFIXES)
        ]
        copy_files(files, root, directory)
        return verified_result(request, directory)

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Copy data files below the name that the settings give their directory; it can tell the kind of rows."""
        return copy_found(request, self.find_data(request, directory), directory)

    def find_data(self, request: FetchRequest, directory: Path) -> FoundData:
        """The data files of a directory, or the one file."""
        root = _existing_path(request)
        given = given_names(request.address.written_path)
        if root.is_dir():
            # its name counts where the settings give it: `.` has one of its own in every clone
            base, files = root.parent if given else root, data_files(root)
            unread = [path.relative_to(root).as_posix() for path in unread_files(root)]
        else:
            # that of its directory counts for a single file too
            base = root.parent.parent if given > 1 else root.parent
            files = [root] if is_data_file(root) else []
            unread = []

        if not files:
            tell_unread(request, unread)
            raise SourceError(
                f"{request.address}: no data files at {root}; expected {', '.join(DATA_SUFFIXES)}; "
                f"{UNREAD_HINT}"
            )
        return FoundData(base, files, unread)


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
