"""Cleaning of text: line ends, blanks, control characters and what HTML left behind."""

import html
import re

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")
_LINE_END_BLANKS = re.compile(r"[^\S\n]+(?=\n)")
_EMPTY_LINES = re.compile(r"\n{3,}")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_BREAK = re.compile(r"<br\s*/?>|</p>", re.IGNORECASE)
_MARKUP = re.compile(r"</?(?:p|b|i|u|em|strong|span|font)(?:\s[^<>]*)?>", re.IGNORECASE)
_CODE = re.compile(
    r"```|<(?:html|head|body|div|style|script|pre|code|h\d|table|\?)\b", re.IGNORECASE
)


def clean_text(text: str) -> str:
    """Clean one message or text; the result is stable: cleaning it again changes nothing.

    Indentation and blank lines stay, they carry meaning in lists and code. Text that shows HTML on purpose (whole
    documents, code fences) keeps its tags and entities.
    """
    text = (
        text.replace("\r\n", "\n")
        .replace("\r", "\n")
        .replace("\u2028", "\n")
        .replace("\u2029", "\n")
        .replace("\x85", "\n")
    )
    if ("<" in text or "&" in text) and not _CODE.search(text):
        text = _without_markup(text)
    text = _CONTROL.sub("", text.replace("\xa0", " "))
    text = _LINE_END_BLANKS.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _without_markup(text: str) -> str:
    while True:  # an entity may hide another one: &amp;lt;
        plain = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        plain = _MARKUP.sub("", _BREAK.sub("\n", plain))
        if plain == text or _CODE.search(plain):
            return plain
        text = plain
