"""JSON in which no key of an object stands twice: elsewhere the last one wins, and the others are lost."""

import json
import re
from collections.abc import Sequence
from typing import Any

from rlhf.data.rows import BrokenRow

_BLANKS = re.compile(r"\s*")


class KeyTwice(dict[str, Any]):
    """An object in which `key` stands twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.key = next(name for name in names if names.count(name) > 1)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else KeyTwice(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def load_json(text: str) -> Any:
    """As `json.loads`; `check_keys` tells of keys that stood twice."""
    return _DECODER.decode(text)


def load_values(text: str) -> list[Any]:
    """Values that stand one behind another, over as many lines as they like; raises as `load_json`."""
    values: list[Any] = []
    place = _end_of_blanks(text, 0)
    while place < len(text):
        value, place = _DECODER.raw_decode(text, place)
        values.append(value)
        place = _end_of_blanks(text, place)
    return values


def _end_of_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place


def check_keys(value: Any) -> None:
    """Refuse an object, at any depth, of which a key stood twice; raises BrokenRow."""
    # no recursion: JSON may be as deep as the interpreter allows
    nodes = [value]
    while nodes:
        node = nodes.pop()
        if isinstance(node, KeyTwice):
            raise BrokenRow("key_twice", f"{node.key!r} stands twice")
        if isinstance(node, dict):
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
