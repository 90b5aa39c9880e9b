"""`path:DIR` or `path:FILE`: a model or data on this machine; ${VARIABLES} are expanded."""

from pathlib import Path

from rlhf.common.errors import RlhfError, SourceError
from rlhf.data.files import DATA_SUFFIXES, data_files
from rlhf.data.sources.base import (
    MODEL_SUFFIXES,
    FetchRequest,
    FetchResult,
    Source,
    copy_files,
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
        else:
            files = [root] if root.name.endswith(DATA_SUFFIXES) else []
            # the name of its directory counts for a single file too
            base = root.parent.parent

        if not files:
            raise SourceError(
                f"{request.address}: no data files at {root}; expected {', '.join(DATA_SUFFIXES)}"
            )
        copy_files(files, base, directory)
        return verified_result(request, directory)


def _existing_path(request: FetchRequest) -> Path:
    try:
        expanded = request.address.path
    except RlhfError as error:
        # its message begins with the address already
        raise SourceError(str(error)) from None

    path = (request.root / expanded).resolve()
    if not path.exists():
        raise SourceError(f"{request.address}: {path} does not exist")
    return path
