"""Whether what a workspace holds is of one whole run of its settings, as DVC has noted it."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rlhf.common.yaml import read_yaml
from rlhf.workspace import Workspace


def stale(workspace: Workspace, but: Collection[str] = ()) -> Iterator[str]:
    """Which stages have not run since what they read was made anew, or a setting of theirs was changed.

    By `dvc.lock`, which has what each stage read, by content, and its settings; nothing is hashed. No
    lock, as where stages were run without DVC: nothing to tell by.

    but: stages that are not asked
    """
    lock = workspace.root / "dvc.lock"
    if not lock.is_file():
        return
    stages = read_yaml(lock)["stages"]
    settings = read_yaml(workspace.params)
    written = {out["path"]: out for stage in stages.values() for out in stage.get("outs", ())}
    for name, stage in stages.items():
        if name in but:
            continue
        for read in stage.get("deps", ()):
            if written.get(read["path"], read).get("md5") != read.get("md5"):
                yield f"{name} has not run since {read['path']} was made anew"
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if _value(settings, key) != value:
                yield f"{name} has not run since {key} was changed"


def _value(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings
