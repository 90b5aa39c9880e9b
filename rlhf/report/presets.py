"""Which preset the settings come from, and what was changed: the shortest description of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_names, preset_text, settings_from
from rlhf.settings.schema import Settings

# how many the header names
_NAMED_SECTIONS, _NAMED_KEYS = 6, 3


@dataclass(frozen=True)
class SettingChange:
    """A key, dotted, whose value is not that of the preset; None where one of both lacks it.

    is_switch: of a section that is on on one side alone; the values are "on" and "off"
    """

    key: str
    preset_value: Any
    run_value: Any
    is_switch: bool = False


@dataclass(frozen=True)
class PresetDistance:
    """A preset, and where a run's settings differ from it."""

    name: str
    changes: list[SettingChange]

    @property
    def in_words(self) -> str:
        """The sections that were changed, each with its first keys: `reward off, ppo (epochs)`."""
        sections: dict[str, list[SettingChange]] = {}
        for change in self.changes:
            sections.setdefault(change.key.partition(".")[0], []).append(change)
        told = [_section_in_words(name, changes) for name, changes in sections.items()]
        more = len(told) - _NAMED_SECTIONS
        return ", ".join(told[:_NAMED_SECTIONS]) + (f" and {more} more" if more > 0 else "")


def _section_in_words(name: str, changes: list[SettingChange]) -> str:
    keys = [
        f"{change.key} {change.run_value}" if change.is_switch else change.key for change in changes
    ]
    if changes[0].key == name:
        return keys[0]
    more = len(keys) - _NAMED_KEYS
    named = ", ".join(key.removeprefix(f"{name}.") for key in keys[:_NAMED_KEYS])
    return f"{name} ({named}{f' and {more} more' if more > 0 else ''})"


def nearest_preset(settings: Settings) -> PresetDistance:
    """The committed preset with the fewest changes; of several, the first by name.

    A section that is off on one side is one change, however many keys it has.
    """
    distances = [_distance(name, settings) for name in preset_names()]
    return min(distances, key=lambda distance: (len(distance.changes), distance.name))


def _distance(name: str, settings: Settings) -> PresetDistance:
    preset = settings_from(parse_yaml(preset_text(name), name), name)
    return PresetDistance(name, list(_changes(_plain(preset), _plain(settings))))


def _plain(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json", by_alias=True)


def _changes(
    preset: Mapping[str, Any], run: Mapping[str, Any], path: str = ""
) -> Iterator[SettingChange]:
    for key in {**preset, **run}:
        before, after = preset.get(key), run.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _changes(before, after, f"{path}{key}.")
        elif isinstance(before, Mapping) or isinstance(after, Mapping):
            yield SettingChange(f"{path}{key}", _switch(before), _switch(after), is_switch=True)
        elif before != after:
            yield SettingChange(f"{path}{key}", before, after)


def _switch(section: Any) -> str:
    return "off" if section is None else "on"
