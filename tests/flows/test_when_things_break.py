"""The messages that the page quotes are those of the code."""

import re

import pytest

from tests.source_tree import ROOT

PAGE = ROOT / "flows" / "when_things_break.md"
# what stands in a message for a name, a path or a number
CHANGING = re.compile(r"…|\d+|\b(?:sft|ppo)\b|\.checkpoints/|\.failures/|step-")
# the system's own, and DVC's
OTHERS = ("No space left on device", "File too large", "Unable to acquire lock", "rwlock")


def quoted() -> list[str]:
    """The fixed parts of all messages in the first column."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    parts = [part.strip(" ,;:()/-") for span in spans for part in CHANGING.split(span)]
    return sorted({part for part in parts if len(part) > 3} - set(OTHERS))


@pytest.mark.parametrize("part", quoted())
def test_a_quoted_message_is_in_the_code(part: str) -> None:
    # over the seams of adjacent literals
    texts = [
        re.sub(r'"\s*(?:#[^\n]*)?\s*f?"', "", path.read_text(encoding="utf-8"))
        for folder in ("rlhf", "tasks", "flows")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".html")
    ]
    assert any(part in text for text in texts)


def test_the_page_quotes_messages() -> None:
    assert len(quoted()) > 15
