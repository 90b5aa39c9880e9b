"""The whole chain of a preset once a seed, each in a workspace of its own below `studies/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import write_yaml
from rlhf.settings import preset_text
from rlhf.settings.edit import edited
from rlhf.stages import STAGES
from tasks.study import chain_of, lay_out_repository, without_stand_ins, write_changed

# a page a seed would say nothing that the table of all does not
_LEFT_OUT = ("report",)
_ELSEWHERE = "set for each run by --first-seed, --seeds and --precision of python -m flows.seeds"


@dataclass(frozen=True)
class SeedRun:
    """One run of the chain."""

    preset: str
    precision: str
    seed: int

    @property
    def name(self) -> str:
        """Of its workspace."""
        return f"{self.preset}-{self.precision}-seed-{self.seed}"

    def settings(self, overrides: dict[str, Any]) -> str:
        """The text of its params.yaml; raises SettingsError for an override that there cannot be."""
        own = {"seed": self.seed, "engine.precision": self.precision}
        if taken := sorted(own.keys() & overrides.keys()):
            raise SettingsError(f"{', '.join(taken)}: {_ELSEWHERE}")
        return edited(preset_text(self.preset), {**overrides, **own}, f"preset {self.preset}")


def lay_out_seed(root: Path, run: SeedRun, overrides: dict[str, Any]) -> Path:
    """Write the workspace of a run and give its directory; what is unchanged is not written again."""
    stages = {
        name: without_stand_ins(STAGES[name], entry)
        for name, entry in chain_of(root).items()
        if name not in _LEFT_OUT
    }
    settings = run.settings(overrides)
    directory = lay_out_repository(root, run.name)
    write_changed(directory / "params.yaml", settings)
    write_changed(directory / "dvc.yaml", write_yaml({"stages": stages}))
    return directory
