"""Cleaning of text: by default what cannot be used, and what the settings ask for.

What a step changes is told with an example.
"""

import html
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import takewhile

_LINE_END = re.compile(r"\r\n?")
# Control characters but tab and line feed: no tokenizer was trained on them. From 80 on
# they are mostly quotes, dashes and euros of CP1252 that was converted as Latin-1.
_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Remains of HTML: entities, and tags that only shape text.
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_BREAK = re.compile(r"<br\s*/?>|</p>", re.IGNORECASE)
_MARKUP = re.compile(r"</?(?:p|b|i|u|em|strong|span|font)(?:\s[^<>]*)?>", re.IGNORECASE)
# Text that shows code or HTML on purpose.
_CODE = re.compile(
    r"```|<(?:html|head|body|div|style|script|pre|code|h\d|table|\?)\b", re.IGNORECASE
)
_RARE_LINE_END = re.compile(r"[\u2028\u2029\x85]")
_INVISIBLE = re.compile(r"[\u200b\ufeff]")
_TRAILING_BLANKS = re.compile(r"[^\S\n]+(?=\n)")
_EMPTY_LINES = re.compile(r"\n{3,}")
# Characters of context in an example.
_CONTEXT = 20


@dataclass(frozen=True)
class Change:
    """What became of a text: `before` and `after` around the first place that changed."""

    name: str
    before: str
    after: str


def clean_text(text: str, cleaning: Collection[str] = ()) -> str:
    """Clean one message or text; cleaning it again changes nothing."""
    return clean(text, cleaning)[0]


def clean(text: str, cleaning: Collection[str] = ()) -> tuple[str, list[Change]]:
    """Clean one message or text, and tell what changed.

    cleaning: names of `data.cleaning`; line ends and unusable characters are always seen to
    """
    changes: dict[str, Change] = {}
    before = None
    # what a step takes away may have hidden what another one looks for
    while text != before:
        before = text
        for name in (name for name in _STEPS if name in _ALWAYS or name in cleaning):
            cleaned = _STEPS[name](text)
            if cleaned != text:
                changes.setdefault(name, Change(name, *around(text, cleaned)))
            text = cleaned
    return text, list(changes.values())


def _without_html(text: str) -> str:
    r"""Entities and tags that shape text go, but from text that shows code or HTML on purpose."""
    if ("<" not in text and "&" not in text) or _CODE.search(text):
        return text
    # an entity may hide another one: &amp;lt;
    while True:
        plain = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        plain = _MARKUP.sub("", _BREAK.sub("\n", plain))
        if plain == text or _CODE.search(plain):
            return plain
        text = plain


def _with_line_ends(text: str) -> str:
    return _LINE_END.sub("\n", text)


def _without_unusable(text: str) -> str:
    return _UNUSABLE.sub("", text)


def _with_plain_characters(text: str) -> str:
    """Rare line ends and blanks become plain ones; what cannot be seen goes."""
    text = _RARE_LINE_END.sub("\n", text).replace("\xa0", " ")
    return _INVISIBLE.sub("", text)


def _without_blanks(text: str) -> str:
    """Blanks at the ends of lines and of the text go; of several empty lines one stays."""
    text = _TRAILING_BLANKS.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()


# In this order: an entity may hide any character.
_STEPS: Mapping[str, Callable[[str], str]] = {
    "html": _without_html,
    "line_ends": _with_line_ends,
    # \x85 is a rare line end to those who ask for plain ones
    "characters": _with_plain_characters,
    "unusable_characters": _without_unusable,
    "blanks": _without_blanks,
}
_ALWAYS = ("line_ends", "unusable_characters")


def around(before: str, after: str) -> tuple[str, str]:
    """Two texts around the first place where they differ."""
    same = takewhile(lambda both: both[0] == both[1], zip(before, after, strict=False))
    start = max(0, sum(1 for _ in same) - _CONTEXT)
    end = start + 2 * _CONTEXT
    return before[start:end], after[start:end]
