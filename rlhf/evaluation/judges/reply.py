"""Reading a verdict as judges give it: behind their thoughts, among prose, inside a fence."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.evaluation.types import Preference

_PREFERRED: Mapping[str, Preference] = {"a": "first", "b": "second", "tie": "tie"}
# A server without a parser of its own for them sends the thoughts along. Templates of some models
# begin them in the prompt, so that the answer has their end alone.
_THOUGHTS = r"(?:think|thinking|thought|thoughts|reasoning)>"
_THOUGHTS_BEGIN = re.compile(rf"\s*<{_THOUGHTS}", re.IGNORECASE)
_THOUGHTS_END = re.compile(rf".*</{_THOUGHTS}", re.IGNORECASE | re.DOTALL)


def parse_reply(text: str, shown: str = "") -> Preference | None:
    """Read the verdict of a JSON object `{"reason": ..., "verdict": "A"}` in a judge's answer.

    shown: what the judge was asked; an object that stands there word for word is a quotation
    None without a verdict, and where two of them differ.
    """
    # what was judged may hold verdicts, and none of them must count
    found = {verdict for object_, verdict in _verdicts(_said(text)) if object_ not in shown}
    return found.pop() if len(found) == 1 else None


def _said(text: str) -> str:
    """The answer without thoughts; nothing where they never end."""
    if end := _THOUGHTS_END.match(text):
        return text[end.end() :]
    return "" if _THOUGHTS_BEGIN.match(text) else text


def _verdicts(text: str) -> Iterator[tuple[str, Preference]]:
    """Each JSON object of a text that holds a verdict, as it is written, and the verdict."""
    # models break lines inside of texts, which JSON forbids
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, strict=False)
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            content, after = decoder.raw_decode(text, start)
        except RecursionError:
            return
        # no object begins here, but one may further on
        except ValueError:
            content = {}
        verdict = content.get("verdict")
        if isinstance(verdict, str) and verdict.strip().lower() in _PREFERRED:
            end = after
            yield text[start:end], _PREFERRED[verdict.strip().lower()]
        start = text.find("{", end)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON allows it; which of two verdicts would count is then a matter of the parser
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key twice")
    return content
