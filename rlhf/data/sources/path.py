"""`path:DIR` or `path:FILE`: a model or data that lies on this machine; ${VARIABLES} are expanded."""

import os
from pathlib import Path
from string import Template

from rlhf.common.errors import SourceError
from rlhf.data.sources.base import (
    DATA_SUFFIXES,
    MODEL_SUFFIXES,
    Brought,
    Request,
    Source,
    brought_tree,
    copy_files,
    data_files,
)


class PathSource(Source):
    """Files that are already here; they are copied, the originals stay as they are."""

    def check(self, request: Request) -> None:
        """Find the file or directory."""
        _locate(request)

    def bring_model(self, request: Request, directory: Path) -> Brought:
        """Copy weights, configuration and tokenizer of a Hugging Face directory."""
        root = _locate(request)
        if not root.is_dir():
            raise SourceError(
                f"{request.address}: {root} is a file, expected a Hugging Face model directory"
            )
        copy_files(
            (p for p in sorted(root.iterdir()) if p.is_file() and p.name.endswith(MODEL_SUFFIXES)),
            root,
            directory,
        )
        return brought_tree(request, directory)

    def bring_data(self, request: Request, directory: Path) -> Brought:
        """Copy data files below their directory's own name, since names tell subset and kind."""
        root = _locate(request)
        files = (
            data_files(root)
            if root.is_dir()
            else [root]
            if root.name.endswith(DATA_SUFFIXES)
            else []
        )
        if not files:
            raise SourceError(
                f"{request.address}: no data files at {root}; expected {', '.join(DATA_SUFFIXES)}"
            )
        base = root.parent if root.is_dir() else root.parent.parent
        copy_files(files, base, directory)
        return brought_tree(request, directory)


def _locate(request: Request) -> Path:
    try:
        text = Template(request.rest).substitute(os.environ)
    except KeyError as error:
        raise SourceError(
            f"{request.address}: the environment variable {error.args[0]} is not set"
        ) from None
    except ValueError:
        raise SourceError(
            f"{request.address}: `$` begins a variable, as in ${{HOME}}; write `$$` for the sign itself"
        ) from None
    path = (request.root / Path(text).expanduser()).resolve()
    if not text or not path.exists():
        raise SourceError(f"{request.address}: {path} does not exist")
    return path
