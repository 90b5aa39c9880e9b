"""Which preset the settings come from, and what was changed: the shortest description of a run."""

from dataclasses import dataclass
from typing import Any

from rlhf.common.yaml import parse_yaml
from rlhf.settings import flatten, preset_names, preset_text, settings_from
from rlhf.settings.schema import Settings


@dataclass(frozen=True)
class PresetDistance:
    """The nearest preset and the keys that differ: (key, value of the preset, value of the run)."""

    name: str
    changes: list[tuple[str, Any, Any]]


def describe_preset(settings: Settings) -> PresetDistance:
    """The committed preset from which the fewest keys differ."""
    mine = flatten(settings.model_dump(mode="json", by_alias=True))
    distances = []
    for name in preset_names():
        preset = settings_from(parse_yaml(preset_text(name), name), name)
        its = flatten(preset.model_dump(mode="json", by_alias=True))
        keys = [key for key in {**its, **mine} if its.get(key) != mine.get(key)]
        distances.append(PresetDistance(name, [(key, its.get(key), mine.get(key)) for key in keys]))
    return min(distances, key=lambda distance: (len(distance.changes), distance.name))
