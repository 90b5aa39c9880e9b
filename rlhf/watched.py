"""Whether DVC watches the code that a stage runs: otherwise DVC would not see a change of it."""

from collections.abc import Iterable
from pathlib import Path

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import read_yaml
from rlhf.core.source import links_to_nothing, unwatched
from rlhf.settings import Settings
from rlhf.stages import STAGES


def refuse_unwatched_stages(root: Path, settings: Settings) -> None:
    """Look at every stage of `dvc.yaml` that the table has; raises SettingsError."""
    path = root / "dvc.yaml"
    # without one, DVC's own message is clear
    stages = read_yaml(path)["stages"] if path.is_file() else {}
    for name in STAGES:
        if name in stages:
            refuse_unwatched(name, settings, filled_in(stages[name].get("deps", []), settings))


def filled_in(deps: Iterable[str], settings: Settings) -> list[str]:
    """Dependencies with the name of the algorithm in place of `${ppo.algorithm}`, as DVC reads them."""
    return [str(path).replace("${ppo.algorithm}", settings.ppo.algorithm) for path in deps]


def refuse_unwatched(stage: str, settings: Settings, listed: Iterable[str]) -> None:
    """Refuse a stage that runs a file which none of the `listed` paths covers, or lists one that is gone."""
    listed = list(listed)
    gone = links_to_nothing(listed)
    if gone:
        names = ", ".join(path.as_posix() for path in gone)
        raise SettingsError(f"{names}: a link to code that is gone; `make dvc.yaml` links anew")
    missing = unwatched(STAGES[stage].modules(settings), listed)
    if missing:
        names = ", ".join(path.as_posix() for path in missing)
        raise SettingsError(
            f"dvc.yaml: {stage} runs {names}, which none of its deps covers; `make dvc.yaml` links it"
        )
