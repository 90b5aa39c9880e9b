"""Stages that the settings may leave out, and the files that stand for their models.

DVC wants every output that a stage declares: one that is off leaves them empty.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.common.errors import RlhfError
from rlhf.common.files import staged_directory, weights_sha256, write_json, write_text
from rlhf.common.yaml import read_yaml
from rlhf.settings import load_settings
from rlhf.stages import STAGES
from rlhf.workspace import OFF_FILE, Workspace

# what an empty one of its kind holds; of a file without a byte DVC warns whenever it hashes it
_EMPTY = {".json": "{}\n", ".jsonl": "\n"}
_EMPTY_PLOT = "[]\n"


def is_off(root: Path, name: str) -> bool:
    """Whether the settings leave a stage out; raises SettingsError where they are refused."""
    return STAGES[name].is_off(load_settings(Workspace(root).params))


def leave_empty(root: Path, name: str) -> None:
    """Write the outputs of a stage that is off, as dvc.yaml lists them.

    Its model is a folder with a note alone. Raises RlhfError for an output of a kind that cannot be
    empty.
    """
    stage = STAGES[name]
    for path in listed_outs(root, name):
        target = root / path
        if path in stage.stand_ins:
            continue
        if path.endswith("_steps.json"):
            write_text(target, _EMPTY_PLOT)
        elif target.suffix in _EMPTY:
            write_text(target, _EMPTY[target.suffix])
        elif not target.suffix:
            with staged_directory(target) as directory:
                write_json(directory / OFF_FILE, {"stage": name, "off": stage.optional})
        else:
            raise RlhfError(f"{path}: {name} is off, and there is no empty {target.suffix} file")
    write_stand_ins(root, name)


def write_stand_ins(root: Path, name: str) -> None:
    """Write the files that stand for a stage's model in the folders of the algorithms that read it.

    A study lists none: its arms depend on the model itself.
    """
    stage = STAGES[name]
    listed = [path for path in listed_outs(root, name) if path in stage.stand_ins]
    if not listed:
        return
    directory = Workspace(root).model(str(stage.model))
    off = (directory / OFF_FILE).is_file()
    digest = None if off else weights_sha256(directory)
    for path in listed:
        write_json(root / path, {"model": f"models/{stage.model}", "sha256": digest})


def listed_outs(root: Path, name: str) -> list[str]:
    """All that dvc.yaml says a stage writes, measurements for DVC's tables included."""
    entry = read_yaml(root / "dvc.yaml")["stages"][name]
    return [_path(out) for out in (*entry.get("outs", []), *entry.get("metrics", []))]


def _path(out: str | Mapping[str, Any]) -> str:
    """An output with options is a mapping of its path."""
    return out if isinstance(out, str) else str(next(iter(out)))
