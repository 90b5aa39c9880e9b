"""Setting keys in the text of a settings file: comments, order and style stay."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from rlhf.common.errors import SettingsError
from rlhf.settings.read import content_of, settings_from


def edited(text: str, values: Mapping[str, Any], where: str) -> str:
    """Give a settings file's text with dotted keys set; raises SettingsError when the result is refused."""
    content = content_of(text, where)
    _put(content, values)
    settings_from(content, f"{where}, as changed")
    editor = YAML()
    editor.width = 4096
    editor.preserve_quotes = True
    editor.representer.add_representer(type(None), _as_null)
    document = editor.load(text)
    _put(document, values)
    out = StringIO()
    editor.dump(document, out)
    return out.getvalue()


def _as_null(representer: Any, _value: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _put(content: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        *sections, name = key.split(".")
        node = content
        for section in sections:
            if not isinstance(node, Mapping) or not isinstance(node.get(section), Mapping):
                raise SettingsError(f"{key}: there is no section {section!r} to set it in")
            node = node[section]
        node[name] = value
