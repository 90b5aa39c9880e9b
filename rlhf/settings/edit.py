"""Setting keys in the text of a settings file: comments, order and style stay."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import editable, edited_text, parse_yaml
from rlhf.settings.read import settings_from

_LIMITS = "data.limits."


def edited(text: str, values: Mapping[str, Any], where: str) -> str:
    """Give a settings file's text with dotted keys set; raises SettingsError if the result is refused.

    A value may be a function: it is given the content as it was.
    """
    content = parse_yaml(text, where)
    values = _resolved(values, content)
    settings_from(changed(content, values), f"{where}, as changed")
    document = editable(text)
    put(document, values)
    return edited_text(document)


def changed(content: Any, values: Mapping[str, Any]) -> Any:
    """Give a settings file's plain content with dotted keys set, values as for `edited`."""
    copied = deepcopy(content)
    put(copied, _resolved(values, content))
    return copied


def _resolved(values: Mapping[str, Any], content: Any) -> dict[str, Any]:
    return {key: value(content) if callable(value) else value for key, value in values.items()}


def _path(key: str) -> list[str]:
    """The sections of a dotted key and its name, which has dots of its own in data.limits."""
    if key.startswith(_LIMITS):
        return ["data", "limits", key.removeprefix(_LIMITS)]
    return key.split(".")


def put(content: Any, values: Mapping[str, Any]) -> None:
    """Set dotted keys of nested mappings in place; raises SettingsError where a section is missing."""
    for key, value in values.items():
        *sections, name = _path(key)
        node = content
        for section in sections:
            if not isinstance(node, Mapping) or not isinstance(node.get(section), Mapping):
                raise SettingsError(f"{key}: there is no section {section!r} to set it in")
            node = node[section]
        # a later key may reach into it
        node[name] = deepcopy(value)
