"""From a YAML file to `Settings`, with errors that name the key and what is allowed there."""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings.schema import Settings
from rlhf.settings.section import Section


def load_settings(path: Path) -> Settings:
    """Read and check a settings file; raises SettingsError that names file and key."""
    return settings_from(parse_yaml(settings_text(path), str(path)), str(path))


def settings_text(path: Path) -> str:
    """Read a settings file as text; raises SettingsError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; `rlhf preset laptop` writes one") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None


def settings_from(content: Any, where: str = "settings") -> Settings:
    """Check a mapping of settings; `where` begins every message.

    Every key must be there, but those that joined later (Section.LATER): DVC finds a stage stale by
    what the file says, and would not see a changed default.
    """
    if not isinstance(content, Mapping):
        raise SettingsError(
            f"{where}: expected a mapping of sections, found {type(content).__name__}"
        )
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        lines = [_explain(dict(item), where) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None
    if lines := [
        f"{where}: {key}: missing; the default is {default}" for key, default in _absent(settings)
    ]:
        raise SettingsError("\n".join(lines))
    return settings


def _absent(section: Section, path: str = "") -> Iterator[tuple[str, str]]:
    """The keys that a file must have and lacks, with their defaults as YAML has them."""
    for name, field in type(section).model_fields.items():
        key, value = f"{path}{field.alias or name}", getattr(section, name)
        given = name in section.model_fields_set
        if not given and name not in section.LATER:
            plain = section.model_dump(mode="json", by_alias=True, include={name})
            yield key, json.dumps(next(iter(plain.values())))
        elif given and isinstance(value, Section):
            yield from _absent(value, f"{key}.")


# below here a secret may stand by mistake: such a text is not repeated
_MAY_HOLD_SECRETS = (
    ("evaluate", "endpoints"),
    ("ppo", "endpoints"),
    ("ppo", "reward_services"),
)


def _explain(item: dict[str, Any], where: str) -> str:
    location = tuple(str(part) for part in item["loc"])
    key = ".".join(location) or "(whole file)"
    if item["type"] == "extra_forbidden":
        known = sorted(_fields_at(location[:-1]))
        near = get_close_matches(location[-1], known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: {key}: unknown key; {hint}known here: {', '.join(known)}"
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    # as YAML calls it
    message = message.replace("a valid tuple", "a list")
    message = {"model_type": "must be a mapping of keys", "missing": "missing"}.get(
        item["type"], message
    )
    if item["type"] == "too_short":
        least = item["ctx"]["min_length"]
        message = f"must have at least {least} item{'s' * (least > 1)}"
    harmless = (
        isinstance(item["input"], bool | int | float | None) and item["type"] != "string_type"
    )
    secret = location[:2] in _MAY_HOLD_SECRETS and not harmless
    silent = item["type"] == "missing" or isinstance(item["input"], Mapping) or secret
    found = "" if silent else f" (found {item['input']!r})"
    return f"{where}: {key}: {message}{found}"


def _fields_at(location: tuple[str, ...]) -> list[str]:
    """The keys of the section at a place; none where there is no section."""
    node: Any = Settings
    for part in location:
        if get_origin(node) is dict:
            # the part is a name of the user's
            node = get_args(node)[1]
        elif get_origin(node) is tuple:
            # the part is a place in a list
            node = get_args(node)[0]
        else:
            field = getattr(node, "model_fields", {}).get(part)
            node = _section_in(field.annotation) if field else None
    fields = getattr(node, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _section_in(annotation: Any) -> Any:
    """The section of an optional one; a mapping of names to sections, or a list of them, as it is."""
    if get_origin(annotation) in (dict, tuple):
        return annotation
    choices = (annotation, *get_args(annotation))
    return next((choice for choice in choices if hasattr(choice, "model_fields")), None)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
