"""A page as the report builds it, and what it is looked at with."""

from collections import Counter
from html.parser import HTMLParser

from rlhf.report.build import build
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

VOID_TAGS = {"meta", "br", "img", "hr", "link", "input"}


class ParsedPage(HTMLParser):
    """Checks nesting; collects tags, ids, links and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open_tags, f"never closed: {self.open_tags}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "xlink:href", "src"):
                self.links.append(value or "")
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open_tags.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags, f"</{tag}> without a start"
        assert self.open_tags.pop() == tag


def built_page(settings: Settings, workspace: Workspace) -> str:
    build(settings, workspace)
    return workspace.report.read_text(encoding="utf-8")
