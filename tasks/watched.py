"""Whether dvc.yaml lists the code that a stage runs: otherwise DVC would not see a change of it."""

from collections.abc import Iterable
from pathlib import Path

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import read_yaml
from rlhf.core.source import unwatched
from rlhf.settings import Settings
from rlhf.stages import STAGES, modules_of


def refuse_unwatched_stages(root: Path, settings: Settings) -> None:
    """Look at every stage of the chain before any work; raises SettingsError."""
    chain = root / "dvc.yaml"
    # DVC says so itself
    if not chain.is_file():
        return
    listed = read_yaml(chain)["stages"]
    for stage in STAGES:
        deps = listed.get(stage, {}).get("deps", [])
        # what DVC fills in
        paths = [str(path).replace("${ppo.algorithm}", settings.ppo.algorithm) for path in deps]
        refuse_unwatched(stage, settings, paths)


def refuse_unwatched(stage: str, settings: Settings, listed: Iterable[str]) -> None:
    """Refuse a stage that runs a file which none of the `listed` paths covers."""
    missing = unwatched(modules_of(stage, settings), listed)
    if missing:
        names = ", ".join(path.as_posix() for path in missing)
        raise SettingsError(
            f"dvc.yaml: {stage} runs {names}, which is not among its deps; `make dvc.yaml` lists it"
        )
