"""`starter`: the data that is shipped with this package."""

import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from rlhf.common.errors import SourceError
from rlhf.data.sources.base import FetchRequest, FetchResult, Source, verified_result

FILES = {
    # the chosen answers are the demonstrations
    "sft": "pairs.jsonl",
    "preferences": "pairs.jsonl",
    "prompts": "prompts.jsonl",
    "evaluation": "evaluation.jsonl",
    "pretrain": "pretrain.jsonl",
}


class StarterSource(Source):
    """The starter data; each use gets the one file that serves it."""

    def check(self, request: FetchRequest) -> None:
        """Refuse anything after the name: there is only one set of starter data."""
        if request.address.detail:
            raise SourceError(f"{request.address}: `starter` takes nothing after its name")
        if request.use not in FILES:
            raise SourceError(f"{request.address}: has nothing for data.{request.use}")

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Copy the file of the use."""
        self.check(request)
        name = FILES[request.use]
        with resources.as_file(starter_file(name)) as path:
            shutil.copyfile(path, directory / name)
        return verified_result(request, directory)


def starter_file(name: str) -> Traversable:
    """Locate one starter file in the package."""
    return resources.files("rlhf") / "data" / "starter" / name
