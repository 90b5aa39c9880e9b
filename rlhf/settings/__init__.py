"""The only reader of params.yaml: typed, frozen, unknown keys refused with their path."""

from rlhf.settings.presets import preset_names, preset_text
from rlhf.settings.read import flatten, load_settings, settings_from
from rlhf.settings.schema import Settings

__all__ = ["Settings", "flatten", "load_settings", "preset_names", "preset_text", "settings_from"]
