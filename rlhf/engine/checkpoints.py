"""Resume checkpoints, keyed by a fingerprint of all that the numbers depend on.

They lie outside DVC's outputs.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, sha256, tree_sha256, write_json
from rlhf.core.source import code_sha256
from rlhf.engine.processes import all_gather, barrier, is_main, share_of
from rlhf.settings.read import flatten
from rlhf.workspace import FINISHED, KEPT

# whose other versions may give other numbers
_LIBRARIES = ("torch", "transformers", "deepspeed", "peft")
# among the settings: what the names in them stand for
REGISTRY = "registry"
# beside the checkpoints: what their key was made from
_PARTS = "made-from.json"
# in a checkpoint: the hash of each of its files
_HASHES = "sha256.json"
# another algorithm differs in dozens of settings: one line can hold no more
_MOST_TOLD = 6
# how the value of a key that only one of two runs has is told
_ABSENT = "not there"

log = logging.getLogger("rlhf")


@dataclass(frozen=True)
class Fingerprint:
    """A hash of all that the numbers of a run depend on, and that itself."""

    key: str
    parts: Mapping[str, Any] = field(compare=False)


def fingerprint(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Path], modules: Sequence[str]
) -> Fingerprint:
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
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest()[:16], json.loads(text))


class Checkpoints:
    """The checkpoints of one stage under one fingerprint: the newest whole one counts.

    The one before it is kept, in case a disk damages the newest; older ones are removed.

    With several processes every one calls each method: all write into one directory, the main one
    names and removes.
    """

    def __init__(
        self, root: Path, stage: str, key: str, parts: Mapping[str, Any] | None = None
    ) -> None:
        self.directory = root / stage / key
        self._parts = parts

    def latest(self, until: int | None = None) -> tuple[int, Path] | None:
        """Step and directory of the newest checkpoint whose files are as they were written, or None.

        until: of a run of so many steps; one beyond is none of it
        """
        # as the main process sees them: on a shared disk another host may see them a little later
        (steps,) = all_gather([self._complete()] if is_main() else [])
        if not steps:
            self._tell_difference()
            return None
        if until is not None and steps[-1][0] > until:
            newest = steps[-1][1]
            log.info("%s lies beyond step %d, the last one asked for: begins anew", newest, until)
            return None
        for step, path in reversed(steps):
            damaged = _damaged_files(path)
            if not damaged:
                log.info("resuming from %s", path)
                return step, path
            log.warning("%s is damaged, and not resumed from: %s", path, "; ".join(damaged))
        log.warning("no checkpoint below %s is whole: begins anew", self.directory)
        return None

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
        hashes = _hashes(partial)
        if is_main():
            write_json(partial / _HASHES, hashes)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            # of a finished run that goes on
            for mark in (FINISHED, KEPT):
                (self.directory / mark).unlink(missing_ok=True)
            if self._parts is not None:
                write_json(self.directory / _PARTS, self._parts)
            self._remove_but(step, self._step_before(step))
        barrier()

    def finish(self, *, keep: bool = False) -> None:
        """Mark them as those of a finished run; whoever keeps its outputs may then remove them.

        keep: unless they are for the run to be lengthened, in place of those of the one before
        """
        if not is_main() or not self.directory.is_dir():
            return
        (self.directory / (FINISHED if keep else KEPT)).unlink(missing_ok=True)
        (self.directory / (KEPT if keep else FINISHED)).touch()
        # nothing more is written to the newest
        newest = max((step for step, _ in self._complete()), default=None)
        self._remove_but(newest)
        if keep:
            for mark in self.directory.parent.glob(f"*/{KEPT}"):
                if mark.parent != self.directory:
                    shutil.rmtree(mark.parent)

    def _step_before(self, step: int) -> int | None:
        return max((one for one, _ in self._complete() if one < step), default=None)

    def _remove_but(self, *kept: int | None) -> None:
        for step, path in self._complete():
            if step not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _complete(self) -> list[tuple[int, Path]]:
        found = [path for path in self.directory.glob("step-*") if path.is_dir()]
        return sorted((int(path.name.removeprefix("step-")), path) for path in found)

    def _tell_difference(self) -> None:
        """Say what the newest other run of this stage, whose checkpoints lie here, was made from."""
        others = list(self.directory.parent.glob(f"*/{_PARTS}"))
        if self._parts is None or not others or not is_main():
            return
        newest = max(others, key=lambda path: path.stat().st_mtime)
        found = differences(read_json(newest), self._parts)
        told = found[:_MOST_TOLD]
        if len(found) > _MOST_TOLD:
            told.append(f"and {len(found) - _MOST_TOLD} more")
        log.info("begins anew: %s was made with other %s", newest.parent, "; ".join(told))


def _hashes(directory: Path) -> dict[str, str]:
    """The hash of each file below `directory`, by its path there; every process reads a share."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    # on a shared disk a host may not see yet what another wrote
    names = sorted(set(all_gather([path.relative_to(directory).as_posix() for path in files])))
    return dict(all_gather([(name, sha256(directory / name)) for name in share_of(names)]))


def _damaged_files(checkpoint: Path) -> list[str]:
    """The files of a checkpoint that are not as they were written, each with what is wrong."""
    hashes = checkpoint / _HASHES
    if not hashes.exists():
        return [f"{_HASHES} is missing"]
    try:
        written = read_json(hashes)
    except DataError as error:
        return [str(error)]
    found = _hashes(checkpoint)
    missing = [f"{name} is missing" for name in sorted(written.keys() - found.keys())]
    return missing + [
        f"{name} has another hash than when it was written"
        for name in sorted(written.keys() & found.keys())
        if written[name] != found[name]
    ]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In which parts two fingerprints differ, with their values where these say something."""
    found = []
    for part in ("settings", "libraries", "inputs"):
        old, new = flatten(before[part]), flatten(now[part])
        changed = [key for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]
        # what another version of the code counts or not says less: at the end
        told = [key for key in (*changed, *sorted(old.keys() ^ new.keys())) if key != REGISTRY]
        for key in told:
            was, is_now = old.get(key, _ABSENT), new.get(key, _ABSENT)
            values = "" if part == "inputs" else f" ({was}, now {is_now})"
            # the part once, before its first key
            named = f"{part}: " if key == told[0] else ""
            found.append(f"{named}{key}{values}")
    # names that the settings have now are told with the keys that have them
    old, new = (dict(parts["settings"].get(REGISTRY, ())) for parts in (before, now))
    found += [
        f"code: {name} stands for {new[name]}, not {place}"
        for name, place in old.items()
        if name in new and new[name] != place
    ]
    return [*found, "code"] if before["code"] != now["code"] else found
