"""`starter`: the data that is shipped with this package."""

import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from rlhf.common.errors import SourceError
from rlhf.data.sources.base import Brought, Request, Source, brought_tree

FILES = {
    "sft": "pairs.jsonl",  # the chosen answers
    "preferences": "pairs.jsonl",
    "prompts": "prompts.jsonl",
    "evaluation": "evaluation.jsonl",
    "pretrain": "pretrain.jsonl",
}


class StarterSource(Source):
    """The starter data; each use gets the one file that serves it."""

    def check(self, request: Request) -> None:
        """There is only one."""
        if request.rest:
            raise SourceError(f"{request.address}: `starter` takes nothing after its name")

    def bring_data(self, request: Request, directory: Path) -> Brought:
        """Copy the file of the use."""
        self.check(request)
        name = FILES[request.use]
        with resources.as_file(starter_file(name)) as path:
            shutil.copyfile(path, directory / name)
        return brought_tree(request, directory)


def starter_file(name: str) -> Traversable:
    """Locate one starter file in the package."""
    return resources.files("rlhf") / "data" / "starter" / name
