"""Resume checkpoints: outside DVC's outputs, keyed by a fingerprint of everything that the numbers depend on."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf.common.files import tree_sha256
from rlhf.engine.processes import barrier, is_main

log = logging.getLogger("rlhf")


def fingerprint(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> str:
    """Hash a stage's name, settings, inputs (files or directories, by content) and the code of this package."""
    code = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    parts = {
        "stage": stage,
        "settings": settings,
        "inputs": {name: tree_sha256(path) for name, path in sorted(inputs.items())},
        "code": code.hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one stage under one fingerprint; the newest complete one counts, older ones are removed.

    With several processes every one calls each method: all write into one directory, the main one names and removes.
    """

    def __init__(self, root: Path, stage: str, key: str) -> None:
        self._stage_root = root / stage
        self.directory = self._stage_root / key

    def latest(self) -> tuple[int, Path] | None:
        """Step and directory of the newest complete checkpoint, or None."""
        steps = self._complete()
        if not steps:
            return None
        log.info("resuming from %s", steps[-1][1])
        return steps[-1]

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write a checkpoint by `write(directory)`; it counts only once all processes have written their part."""
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

    def clear(self) -> None:
        """Forget the checkpoints of this run; called once its outputs are in place. Those of other settings stay."""
        if is_main():
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._stage_root.is_dir() and not any(self._stage_root.iterdir()):
                self._stage_root.rmdir()

    def _complete(self) -> list[tuple[int, Path]]:
        found = [path for path in self.directory.glob("step-*") if path.is_dir()]
        return sorted((int(path.name.removeprefix("step-")), path) for path in found)
