"""Cleaning of text: line ends, blanks, control characters and remains of HTML."""

import html
import re

_LINE_END = re.compile(r"\r\n|[\r\u2028\u2029\x85]")
# What cannot be seen: control characters, zero-width spaces, byte order marks.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")
_TRAILING_BLANKS = re.compile(r"[^\S\n]+(?=\n)")
_EMPTY_LINES = re.compile(r"\n{3,}")
# Remains of HTML: entities, and tags that only shape text.
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_BREAK = re.compile(r"<br\s*/?>|</p>", re.IGNORECASE)
_MARKUP = re.compile(r"</?(?:p|b|i|u|em|strong|span|font)(?:\s[^<>]*)?>", re.IGNORECASE)
# Text that shows code or HTML on purpose.
_CODE = re.compile(
    r"```|<(?:html|head|body|div|style|script|pre|code|h\d|table|\?)\b", re.IGNORECASE
)


def clean_text(text: str) -> str:
    """Clean one message or text; the result is stable: cleaning it again changes nothing.

    Indentation and blank lines stay, they carry meaning in lists and code. Text that shows HTML on
    purpose (whole documents, code fences) keeps its tags and entities.
    """
    text = _LINE_END.sub("\n", text)
    if ("<" in text or "&" in text) and not _CODE.search(text):
        text = _without_markup(text)
    text = _CONTROL.sub("", text.replace("\xa0", " "))
    text = _TRAILING_BLANKS.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _without_markup(text: str) -> str:
    # an entity may hide another one: &amp;lt;
    while True:
        plain = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        plain = _MARKUP.sub("", _BREAK.sub("\n", plain))
        if plain == text or _CODE.search(plain):
            return plain
        text = plain
