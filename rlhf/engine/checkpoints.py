"""Resume checkpoints, keyed by a fingerprint of all that the numbers depend on.

They lie outside DVC's outputs.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.common.files import tree_sha256
from rlhf.core.source import code_sha256
from rlhf.engine.processes import barrier, is_main
from rlhf.workspace import FINISHED

# whose other versions may give other numbers
_LIBRARIES = ("torch", "transformers", "deepspeed")

log = logging.getLogger("rlhf")


def fingerprint(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Path], modules: Sequence[str]
) -> str:
    """Hash all that the numbers of a run depend on.

    The stage's name, its settings, its inputs (files or directories, by content), the source that
    `modules` can run, and the libraries.
    """
    parts = {
        "stage": stage,
        "settings": settings,
        "inputs": {name: tree_sha256(path) for name, path in sorted(inputs.items())},
        "code": code_sha256(modules),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one stage under one fingerprint: the newest complete one counts.

    Older ones are removed.

    With several processes every one calls each method: all write into one directory, the main one
    names and removes.
    """

    def __init__(self, root: Path, stage: str, key: str) -> None:
        self.directory = root / stage / key

    def latest(self) -> tuple[int, Path] | None:
        """Step and directory of the newest complete checkpoint, or None."""
        steps = self._complete()
        if not steps:
            return None
        log.info("resuming from %s", steps[-1][1])
        return steps[-1]

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write a checkpoint by `write(directory)`; it counts once all processes wrote their part."""
        # the final name appears once every process has written: a killed run leaves a partial one
        final = self.directory / f"step-{step:08d}"
        partial = self.directory / f".{final.name}.partial"
        if is_main():
            for stale in self.directory.glob(".step-*.partial"):
                shutil.rmtree(stale)
            partial.mkdir(parents=True)
        barrier()
        write(partial)
        barrier()
        if is_main():
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for _, path in self._complete():
                if path != final:
                    shutil.rmtree(path, ignore_errors=True)
        barrier()

    def finish(self) -> None:
        """Mark them as those of a finished run; whoever keeps its outputs may then remove them."""
        if is_main() and self.directory.is_dir():
            (self.directory / FINISHED).touch()

    def _complete(self) -> list[tuple[int, Path]]:
        found = [path for path in self.directory.glob("step-*") if path.is_dir()]
        return sorted((int(path.name.removeprefix("step-")), path) for path in found)
