"""`kill -9` at random moments of every stage, as a power cut would come: does what follows equal a run without one?"""

import json
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.common.files import sha256
from rlhf.common.yaml import read_yaml
from rlhf.settings import preset_text
from rlhf.settings.edit import edited
from rlhf.settings.variants import VARIANTS
from tests.project_copy import Project, copy_project
from tests.waiting import kill_below

# two models that PPO-max has no use for: so that every stage has work
_ALL_STAGES = {
    "data.steps": ["additions:60"],
    "dpo": VARIANTS["rto"]["dpo"],
    "process": VARIANTS["process"]["process"],
}
# what runs of equal numbers differ in
_TIMES = ("seconds", "_per_second")
# the page names its day and commit; all that it shows is in the files before it
_PAGES = (".html",)


@dataclass(frozen=True)
class Kill:
    """What came of one kill.

    moment: seconds behind the start of the command; None where it had ended before
    seconds: of the command where nothing is killed
    differs: the files that are not those of the undisturbed run
    """

    stage: str
    moment: float | None
    seconds: float
    differs: Sequence[str]


def random_kills(folder: Path, count: int, seed: int) -> Iterator[Kill]:
    """Kill each stage in turn at a random moment, let it go on, and compare all that it wrote.

    Once all have been killed a fresh workspace is begun. The undisturbed run comes first.
    """
    undisturbed = _chain(folder / "undisturbed")
    names = list(_stages(undisturbed))
    seconds = {stage: _timed(undisturbed, stage) for stage in names}
    moments = random.Random(seed)
    for number in range(count):
        stage = names[number % len(names)]
        if stage == names[0]:
            project = _chain(folder / f"round-{number // len(names) + 1}")
        moment = moments.uniform(0.0, seconds[stage])
        killed = _is_killed(project, stage, moment)
        _repro(project, stage)
        differs = _differences(_outcome(undisturbed, stage), _outcome(project, stage))
        yield Kill(stage, moment if killed else None, seconds[stage], differs)


# -- workspaces -----------------------------------------------------------------------------------


def _chain(root: Path) -> Project:
    project = copy_project(root, "tiny")
    text = edited(preset_text("tiny"), _ALL_STAGES, "preset tiny")
    (root / "params.yaml").write_text(text, encoding="utf-8")
    project.commit()
    return project


def _stages(project: Project) -> dict[str, dict[str, Any]]:
    """In the order in which they run."""
    stages: dict[str, dict[str, Any]] = read_yaml(project.root / "dvc.yaml")["stages"]
    return stages


def _command(stage: str) -> tuple[str, ...]:
    """What `make repro TARGETS=<stage>` runs."""
    return ("python", "-m", "tasks.repro", stage)


def _repro(project: Project, stage: str) -> None:
    project.run(*_command(stage))


def _timed(project: Project, stage: str) -> float:
    began = time.monotonic()
    _repro(project, stage)
    return time.monotonic() - began


def _is_killed(project: Project, stage: str, moment: float) -> bool:
    """Begin a stage and kill all that works in the workspace, servers too; False where it ended before."""
    run = project.start(*_command(stage))
    try:
        run.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        kill_below(project.root)
        run.communicate()
        return True
    return False


# -- what was written -------------------------------------------------------------------------------


def _outcome(project: Project, stage: str) -> dict[str, Any]:
    """All that a stage wrote, by path: hashes, of JSON the numbers without the times."""
    content = _stages(project)[stage]
    written = [project.root / name for name in (*content["outs"], *content.get("metrics", ()))]
    files = [file for path in written for file in (path.rglob("*") if path.is_dir() else [path])]
    return {
        file.relative_to(project.root).as_posix(): _content(file)
        for file in sorted(files)
        if not file.is_dir()
    }


def _content(file: Path) -> Any:
    if file.suffix in _PAGES:
        return "a page"
    if file.suffix == ".json":
        return _without_times(json.loads(file.read_text(encoding="utf-8")))
    if file.suffix == ".jsonl":
        lines = file.read_text(encoding="utf-8").splitlines()
        return [_without_times(json.loads(line)) for line in lines]
    return sha256(file)


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _without_times(item) for key, item in value.items() if not key.endswith(_TIMES)
        }
    return value


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
