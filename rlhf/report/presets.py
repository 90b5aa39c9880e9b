"""Which preset the settings come from, and what was changed: the shortest description of a run."""

from dataclasses import dataclass
from typing import Any

from rlhf.common.yaml import parse_yaml
from rlhf.settings import flatten, preset_names, preset_text, settings_from
from rlhf.settings.schema import Settings


@dataclass(frozen=True)
class SettingChange:
    """A key, dotted, whose value is not that of the preset; None where one of both lacks it."""

    key: str
    preset_value: Any
    run_value: Any


@dataclass(frozen=True)
class PresetDistance:
    """A preset, and where a run's settings differ from it."""

    name: str
    changes: list[SettingChange]


def nearest_preset(settings: Settings) -> PresetDistance:
    """The committed preset from which the fewest keys differ; of several, the first by name."""
    distances = [_distance(name, settings) for name in preset_names()]
    return min(distances, key=lambda distance: (len(distance.changes), distance.name))


def _distance(name: str, settings: Settings) -> PresetDistance:
    preset_values = _flat(settings_from(parse_yaml(preset_text(name), name), name))
    run_values = _flat(settings)

    # a section that is null on one side has no keys there
    changes = []
    for key in preset_values | run_values:
        before, after = preset_values.get(key), run_values.get(key)
        if before != after:
            changes.append(SettingChange(key, before, after))
    return PresetDistance(name, changes)


def _flat(settings: Settings) -> dict[str, Any]:
    return flatten(settings.model_dump(mode="json", by_alias=True))
