"""Whole settings files by name: one base, and for each preset what it changes.

`base.yaml` has every key with its comment. A preset's file holds the comment that heads it and the
keys that differ; a comment on such a key takes the place of the base's.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import editable, edited_text

_BASE = "base"


def preset_names() -> list[str]:
    """List the presets."""
    names = (item.name.removesuffix(".yaml") for item in _folder().iterdir() if _is_preset(item))
    return sorted(names)


# keeping comments costs a tenth of a second, and each stage asks for every preset
@cache
def preset_text(name: str) -> str:
    """A preset as the text of a whole settings file; raises SettingsError with the known names."""
    if name not in preset_names():
        raise SettingsError(f"no preset {name!r}; there are: {', '.join(preset_names())}")
    changes = _read(name)
    document = editable(_read(_BASE))
    merge(document, editable(changes))
    return "".join(_head(changes)) + edited_text(document)


def preset_about(name: str) -> str:
    """The comment that heads a preset, as one line."""
    return " ".join(line.lstrip("# ").strip() for line in _head(_read(name)))


def merge(document: Any, changes: Any) -> None:
    """Set the keys of `changes` in `document`, both as `editable` gives them, with their comments."""
    for key, value in changes.items():
        old = document.get(key)
        # an empty mapping has a style of its own that would stay
        if isinstance(value, Mapping) and isinstance(old, Mapping) and old:
            merge(old, value)
        else:
            document[key] = value
        if key in changes.ca.items:
            document.ca.items[key] = changes.ca.items[key]


def _head(text: str) -> list[str]:
    lines = text.splitlines(keepends=True)
    end = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


def _read(name: str) -> str:
    text: str = (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    return text


def _is_preset(item: Any) -> bool:
    return item.name.endswith(".yaml") and item.name != f"{_BASE}.yaml"


def _folder() -> Any:
    return resources.files("rlhf") / "presets"
