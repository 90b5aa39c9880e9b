"""Reading a verdict as judges give it: behind their thoughts, among prose, inside a fence."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.evaluation.types import Preference

_PREFERRED: Mapping[str, Preference] = {
    "a": "first",
    "b": "second",
    **dict.fromkeys(("tie", "draw", "equal", "c"), "tie"),
}
_NAMES = "a|b|tie|draw|equal"
# A, **B**, (tie), Answer A
_VERDICT = rf"[\W_]*(?:(?:answer|response|assistant|option)\s+)?[\W_]*({_NAMES})[\W_]*"
_VALUE = re.compile(_VERDICT, re.IGNORECASE)
_LINE = re.compile(
    rf"[\W_]*(?:(?:my|the|final)\s+)*(?:verdict|answer|winner)(?:\s+is)?[\W_]*[:=]{_VERDICT}",
    re.IGNORECASE,
)
# as MT-Bench has it, C for a tie
_BRACKETS = re.compile(rf"\[\[({_NAMES}|c)\]\]", re.IGNORECASE)
# What was meant as an object and is no JSON: quotes within a text, single quotes, keys without any.
_BRACES = re.compile(r"\{[^{}]*\}")
_QUOTE = "[\"'\u2018\u2019\u201c\u201d]?"
_FIELD = re.compile(
    rf"{_QUOTE}\bverdict{_QUOTE}\s*:\s*{_QUOTE}(?:(?:answer|response)\s+)?({_NAMES}){_QUOTE}\s*[,}}]",
    re.IGNORECASE,
)
# A server without a parser of its own for them sends the thoughts along, between marks such as
# <think>, [THINK] and ◁think▷. Templates of some models begin them in the prompt, so that the answer
# has their end alone. GPT-OSS has channels: what stands in any but the final one is thought.
_MARK = re.compile(
    r"(?:<\|?|◁|\[(?=/?think\]))(?P<end>/?)(?:seed:)?(?:think|thinking|thought|thoughts|reasoning)(?:\|?>|▷|\])"
    r"|<\|channel\|>\s*(?:(?P<final>final)\b|\w)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
    re.IGNORECASE,
)
_END_OF_CHANNEL = re.compile(r"<\|(?:return|end)\|>")
# models write them, JSON forbids them
_LAST_COMMA = re.compile(r",(?=\s*[}\]])")


@dataclass(frozen=True)
class _Object:
    """A JSON object with a verdict: where it stands in the answer, and what it says."""

    start: int
    end: int
    verdict: Preference


def parse_reply(text: str, shown: str = "") -> Preference | None:
    """Read the verdict of a JSON object `{"reason": ..., "verdict": "A"}` in a judge's answer.

    shown: what the judge was asked; an object that stands there word for word is a quotation
    None without a verdict, and where two of them differ. Without any object that is JSON behind its
    thoughts, one that is meant as such counts, and then a last line `Verdict: A` or `[[A]]`.
    """
    objects = list(_objects(text))
    begin, end = _said(text, objects)
    said = [one for one in objects if begin <= one.start and one.end <= end]
    if not said:
        return _meant(text[begin:end], shown)
    # what was judged may hold verdicts, and none of them must count
    found = {one.verdict for one in said if text[one.start : one.end] not in shown}
    return found.pop() if len(found) == 1 else None


def _said(text: str, objects: Sequence[_Object]) -> tuple[int, int]:
    """Where the answer itself begins and ends: behind its thoughts, and before those that never end.

    A mark inside an object is part of the reason that it gives.
    """
    marks = [mark for mark in _MARK.finditer(text) if not _stands_in(mark.start(), objects)]
    ends = [mark for mark in marks if mark["end"] or mark["final"]]
    begin = ends[-1].end() if ends else 0
    opened = [mark.start() for mark in marks if mark not in ends and mark.start() >= begin]
    # An end without a beginning, and nothing behind it: the answer was given before.
    if len(marks) == 1 and ends and not text[begin:].strip() and text.lstrip()[:1] in ("{", "`"):
        begin = 0
    # what ends a channel is no part of a last line
    if ends and ends[-1]["final"]:
        closed = [mark.start() for mark in _END_OF_CHANNEL.finditer(text, begin)]
        opened += [place for place in closed if not _stands_in(place, objects)]
    return begin, min(opened, default=len(text))


def _stands_in(place: int, objects: Sequence[_Object]) -> bool:
    return any(one.start <= place < one.end for one in objects)


def _meant(said: str, shown: str) -> Preference | None:
    """The verdict of objects that are no JSON, else of the last line."""
    braces = [found[0] for found in _BRACES.finditer(said) if found[0] not in shown]
    fields = [field.lower() for text in braces for field in _FIELD.findall(text)]
    if not fields:
        fields = _in_last_line(said, shown)
    found = {_PREFERRED[field] for field in fields}
    return found.pop() if len(found) == 1 else None


def _in_last_line(said: str, shown: str) -> list[str]:
    lines = said.strip().splitlines()
    if not lines or lines[-1].strip() in shown:
        return []
    line = _LINE.fullmatch(lines[-1])
    found = [line[1]] if line else _BRACKETS.findall(lines[-1])
    return [verdict.lower() for verdict in found]


def _objects(text: str) -> Iterator[_Object]:
    """Each JSON object of a text that holds a verdict."""
    # models break lines inside of texts, which JSON forbids
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, strict=False)
    lenient = _LAST_COMMA.sub(" ", text)
    start = lenient.find("{")
    while start >= 0:
        end = start + 1
        try:
            content, after = decoder.raw_decode(lenient, start)
        except RecursionError:
            return
        # no object begins here, but one may further on
        except ValueError:
            content = {}
        verdict = content.get("verdict")
        value = _VALUE.fullmatch(verdict) if isinstance(verdict, str) else None
        if value is not None:
            end = after
            yield _Object(start, end, _PREFERRED[value[1].lower()])
        start = lenient.find("{", end)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON allows it; which of two verdicts would count is then a matter of the parser
    content = {key.strip().lower(): value for key, value in pairs}
    if len(content) < len(pairs):
        raise ValueError("a key twice")
    return content
