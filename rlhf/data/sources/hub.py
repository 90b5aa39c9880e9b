"""`hub:OWNER/NAME@REVISION[#FOLDER]`: a repository on the Hugging Face hub, pinned to a commit."""

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError

from rlhf.common.errors import SourceError
from rlhf.data.files import DATA_SUFFIXES, data_files, is_hidden
from rlhf.data.sources.base import (
    MODEL_SUFFIXES,
    FetchRequest,
    FetchResult,
    FoundData,
    Source,
    copy_files,
    copy_found,
    tell_unread,
    verified_result,
)

RepositoryType = Literal["model", "dataset"]

_DETAIL = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[^#]+)(?:#(?P<folder>[^#]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# httpx2 is what huggingface_hub speaks through.
_DOWNLOAD_ERRORS = (httpx2.HTTPError, OSError, ValueError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Location:
    """Where on the hub: `folder` ends with a slash, or is "" for the whole repository."""

    repository: str
    revision: str
    folder: str


class HubSource(Source):
    """Downloads through the hub's own cache (HF_HOME), so that a broken download continues.

    Only files that cannot run code are asked for.
    """

    def check(self, request: FetchRequest) -> None:
        """Parse the address."""
        _parse(request)

    def fetch_model(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Download weights (safetensors), configuration and tokenizer, from the top folder alone."""
        location = _parse(request)
        if location.folder:
            raise SourceError(
                f"{request.address}: #FOLDER is for data; a model lies at the top of its repository"
            )

        # `*` matches folders too, where repositories keep other formats (onnx/)
        allow = [f"*{suffix}" for suffix in MODEL_SUFFIXES]
        commit, root = _snapshot(request, location, "model", allow, ignore=["*/*"])
        files = [path for path in sorted(root.iterdir()) if path.name.endswith(MODEL_SUFFIXES)]
        copy_files(files, root, directory)
        return verified_result(request, directory, commit)

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Download the data files of a data set repository, or of one folder in it."""
        return copy_found(request, self.find_data(request, directory), directory)

    def find_data(self, request: FetchRequest, directory: Path) -> FoundData:
        """The data files in the hub's cache, downloaded if they are not there."""
        location = _parse(request)
        suffixes = [*DATA_SUFFIXES, *map(str.upper, DATA_SUFFIXES)]
        allow = [f"{location.folder}*{suffix}" for suffix in suffixes]
        commit, root = _snapshot(request, location, "dataset", allow)

        # the cache may hold other folders of the same commit
        files = [
            path
            for path in data_files(root)
            if path.relative_to(root).as_posix().startswith(location.folder)
        ]
        unread = _unread(location, commit, {path.relative_to(root).as_posix() for path in files})
        if not files:
            tell_unread(request, unread)
            raise SourceError(
                f"{request.address}: no data files there; expected {', '.join(DATA_SUFFIXES)}"
            )
        return FoundData(root, files, unread, commit)


def _parse(request: FetchRequest) -> _Location:
    match = _DETAIL.fullmatch(request.address.detail)
    if match is None:
        raise SourceError(
            f"{request.address}: expected hub:OWNER/NAME@REVISION, "
            "REVISION a commit (40 hex digits) or a tag"
        )
    folder = f"{match['folder'].strip('/')}/" if match["folder"] else ""
    return _Location(match["repo"], match["revision"], folder)


def _snapshot(
    request: FetchRequest,
    location: _Location,
    repository_type: RepositoryType,
    allow: list[str],
    ignore: list[str] | None = None,
) -> tuple[str, Path]:
    """Download one commit; returns the commit and the directory of its files in the hub's cache."""
    try:
        commit = _commit(request, location, repository_type)
        root = snapshot_download(
            location.repository,
            repo_type=repository_type,
            revision=commit,
            allow_patterns=allow,
            ignore_patterns=ignore,
        )
    except _DOWNLOAD_ERRORS as error:
        raise SourceError(f"{request.address}: cannot be downloaded: {error}") from error
    return commit, Path(root)


def _unread(location: _Location, commit: str, read: Collection[str]) -> list[str]:
    """The files of the repository, or of the folder in it, that are not read; hidden ones left out.

    The list of files came with the download; of an older cache it may be missing.
    """
    try:
        listed = get_cached_repo_tree(location.repository, repo_type="dataset", revision=commit)
    except CachedRepoTreeNotFoundError:
        log.info("%s: what is not read there is not known", location.repository)
        return []
    names = sorted(file.path for file in listed if file.path.startswith(location.folder))
    return [name for name in names if name not in read and not is_hidden(name)]


def _commit(request: FetchRequest, location: _Location, repository_type: RepositoryType) -> str:
    """The commit of a revision, which is one itself or a tag; a branch is refused."""
    revision = location.revision
    if _COMMIT.fullmatch(revision):
        return revision

    refs = HfApi().list_repo_refs(location.repository, repo_type=repository_type)
    for tag in refs.tags:
        if tag.name == revision:
            return tag.target_commit

    for branch in refs.branches:
        if branch.name == revision:
            raise SourceError(
                f"{request.address}: a branch moves; "
                f"pin the commit that it names now: @{branch.target_commit}"
            )
    tags = ", ".join(tag.name for tag in refs.tags) or "none"
    raise SourceError(f"{request.address}: no tag {revision!r}; there are: {tags}")
