"""`hub:OWNER/NAME@REVISION[#FOLDER]`: a repository on the Hugging Face hub, pinned to one commit."""

import re
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import HfApi, snapshot_download

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

_ADDRESS = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[^#]+)(?:#(?P<folder>[^#]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource(Source):
    """Downloads go through the hub's own cache (HF_HOME), so that a broken one goes on; only inert files are asked for."""

    def check(self, request: Request) -> None:
        """Parse the address."""
        _parse(request)

    def bring_model(self, request: Request, directory: Path) -> Brought:
        """Bring weights (safetensors), configuration and tokenizer from the top of a model repository."""
        match = _parse(request)
        if match["folder"]:
            raise SourceError(
                f"{request.address}: #FOLDER is for data; a model lies at the top of its repository"
            )
        commit, root = _snapshot(
            request, match, "model", [f"*{suffix}" for suffix in MODEL_SUFFIXES], ["*/*"]
        )
        copy_files(
            (path for path in sorted(root.iterdir()) if path.name.endswith(MODEL_SUFFIXES)),
            root,
            directory,
        )
        return brought_tree(request, directory, commit)

    def bring_data(self, request: Request, directory: Path) -> Brought:
        """Bring the data files of a data set repository, or of one folder in it."""
        match = _parse(request)
        folder = f"{match['folder'].strip('/')}/" if match["folder"] else ""
        commit, root = _snapshot(
            request, match, "dataset", [f"{folder}*{suffix}" for suffix in DATA_SUFFIXES], None
        )
        files = [
            path
            for path in data_files(root)
            if path.relative_to(root).as_posix().startswith(folder)
        ]
        if not files:
            raise SourceError(
                f"{request.address}: no data files there; expected {', '.join(DATA_SUFFIXES)}"
            )
        copy_files(files, root, directory)
        return brought_tree(request, directory, commit)


def _parse(request: Request) -> re.Match[str]:
    match = _ADDRESS.fullmatch(request.rest)
    if match is None:
        raise SourceError(
            f"{request.address}: expected hub:OWNER/NAME@REVISION, REVISION a commit (40 hex digits) or a tag"
        )
    return match


def _snapshot(
    request: Request,
    match: re.Match[str],
    kind: Literal["model", "dataset"],
    allow: list[str],
    ignore: list[str] | None,
) -> tuple[str, Path]:
    """Download one commit; gives the commit and where its files lie in the hub's cache."""
    repo, revision = match["repo"], match["revision"]
    try:
        commit = (
            revision
            if _COMMIT.fullmatch(revision)
            else _commit_of_tag(request, repo, revision, kind)
        )
        root = snapshot_download(
            repo, repo_type=kind, revision=commit, allow_patterns=allow, ignore_patterns=ignore
        )
    except (
        httpx2.HTTPError,
        OSError,
        ValueError,
    ) as error:  # httpx2 is what huggingface_hub speaks through
        raise SourceError(f"{request.address}: cannot be downloaded: {error}") from error
    return commit, Path(root)


def _commit_of_tag(
    request: Request, repo: str, revision: str, kind: Literal["model", "dataset"]
) -> str:
    refs = HfApi().list_repo_refs(repo, repo_type=kind)
    for tag in refs.tags:
        if tag.name == revision:
            return tag.target_commit
    for branch in refs.branches:
        if branch.name == revision:
            raise SourceError(
                f"{request.address}: a branch moves; pin the commit that it names now: @{branch.target_commit}"
            )
    raise SourceError(
        f"{request.address}: no tag {revision!r}; there are: {', '.join(t.name for t in refs.tags) or 'none'}"
    )
