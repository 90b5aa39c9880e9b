import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, write_json
from rlhf.report.build import build
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

VOID = {"meta", "br", "img", "hr", "link", "input"}
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Checks nesting; collects tags, ids, links and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "xlink:href", "src"):
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag


def built(settings: Settings, workspace: Workspace) -> str:
    build(settings, workspace)
    return workspace.report.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_self_contained(page: str) -> None:
    parsed = Page(page)
    assert (
        parsed.tags["script"]
        == parsed.tags["link"]
        == parsed.tags["img"]
        == parsed.tags["iframe"]
        == 0
    )
    assert [name for name, count in parsed.ids.items() if count > 1] == []
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page)


def test_every_figure_is_drawn_and_follows_the_theme(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(figures) == 3 + 2 * 4 + 3 + 7 + 7 + 4
    assert "Not recorded" not in page
    variables = set(re.findall(r"(--[a-z-]+):", page))
    for figure in figures:
        ET.fromstring(figure)
        assert "aria-label" in figure
        assert (
            re.findall(r"#[0-9a-f]{6}\b", figure) == []
        )  # every colour is a variable of the theme
        assert set(re.findall(r"var\((--[a-z-]+)\)", figure)) <= variables


def test_the_same_files_give_the_same_page(
    page: str, settings: Settings, workspace: Workspace
) -> None:
    assert built(settings, workspace) == page


def test_hostile_text_is_shown_escaped_everywhere(settings: Settings, workspace: Workspace) -> None:
    table = pd.read_parquet(workspace.comparisons)
    messages = json.dumps([{"role": HOSTILE, "content": HOSTILE}])
    hostile = {
        "response_challenger": HOSTILE,
        "response_baseline": HOSTILE,
        "messages": messages,
        "kind": HOSTILE,
    }
    table.assign(**hostile).to_parquet(workspace.comparisons)
    row = {"step": 0, "kind": HOSTILE, "prompt": HOSTILE, "response": HOSTILE, "reward": 1.0}
    workspace.samples("ppo").write_text(json.dumps(row) + "\n", encoding="utf-8")
    details = read_json(workspace.details("reward"))
    for pair in details["most_wrong"]:
        pair |= {"messages": messages, "chosen": HOSTILE, "rejected": HOSTILE, "kind": HOSTILE}
    write_json(workspace.details("reward"), details)
    write_json(workspace.details("prepare"), {"files": {HOSTILE: {HOSTILE: 3}}})
    text = built(settings.model_copy(update={"experiment": HOSTILE}), workspace)
    parsed = Page(text)
    assert parsed.tags["script"] == parsed.tags["img"] == 0
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert "&lt;script&gt;alert(" in text
    assert "{{ 7 * 7 }}" in text  # neither run as a template


def test_what_was_run_is_told(
    page: str, settings: Settings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "commit</dt>" not in page
    monkeypatch.setenv("RLHF_GIT_COMMIT", "0123456789ab with changes")
    text = built(settings, workspace)
    assert "<code>0123456789ab with changes</code>" in text
    assert "laptop, 1 key changed" in text
    assert "<td><code>seed</code></td><td>1</td><td>977</td>" in text


def test_headline_numbers_are_those_of_the_files(page: str) -> None:
    assert '<p class="big">58.5\u202f%</p>' in page  # win_rate 0.51 + 0.15 / 2
    assert "95 % interval 49.0\u202f% – 67.0\u202f%" in page
    assert 'style="flex: 0.5100 0 0"' in page
    assert "the paper’s own results (fig. 10)" in page


def test_a_win_rate_at_equal_length_that_is_not_told_is_a_dash(
    settings: Settings, workspace: Workspace
) -> None:
    keys = [f"win_rate_length_controlled{end}" for end in ("", "_low", "_high")]
    details = read_json(workspace.details("evaluate"))
    headline, other = details["comparisons"]
    headline["figures"] |= dict(zip(keys, (0.62, 0.5, 0.7), strict=True))
    other["figures"] |= dict.fromkeys(keys)
    write_json(workspace.details("evaluate"), details)
    text = built(settings, workspace)
    cells = '<td class="n">{}</td><td class="n">{}</td><td class="n">57.0\u202f%</td>'
    assert text.count(cells.format("62.0\u202f%", "50.0\u202f% – 70.0\u202f%")) == 1
    assert text.count(cells.format("–", "–")) == 1


def test_details_of_an_older_version_are_named_with_what_they_lack(
    settings: Settings, workspace: Workspace
) -> None:
    details = read_json(workspace.details("evaluate"))
    for comparison in details["comparisons"]:
        del comparison["figures"]
    write_json(workspace.details("evaluate"), details)
    with pytest.raises(
        DataError, match=r"evaluate_details\.json: its comparisons have no `figures`"
    ) as refused:
        build(settings, workspace)
    assert "\n" not in str(refused.value)


def test_a_collapsed_run_is_marked(page: str, settings: Settings, workspace: Workspace) -> None:
    assert "do not trust the reward" not in page
    write_json(workspace.metrics("ppo"), read_json(workspace.metrics("ppo")) | {"collapsed": True})
    assert "do not trust the reward" in built(settings, workspace)


def test_missing_optional_files_give_notes(settings: Settings, workspace: Workspace) -> None:
    optional = [workspace.metrics("fetch"), workspace.metrics("prepare"), workspace.samples("ppo")]
    optional += [workspace.steps(stage) for stage in ("sft", "reward", "gold", "ppo")]
    optional += [
        workspace.details(stage) for stage in ("prepare", "reward", "gold", "ppo", "evaluate")
    ]
    for path in optional:
        path.unlink()
    text = built(settings, workspace)
    Page(text)
    assert "metrics/prepare.json is missing" in text
    assert "No samples were recorded" in text
    assert text.count("Not recorded in this run.") > 10


def test_empty_summaries_still_make_a_page(settings: Settings, workspace: Workspace) -> None:
    for stage in ("sft", "reward", "ppo", "gold", "evaluate"):
        write_json(workspace.metrics(stage), {"accuracy_helpful": None})
    Page(built(settings, workspace))


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "gold", "evaluate"])
def test_a_missing_summary_is_named(settings: Settings, workspace: Workspace, stage: str) -> None:
    workspace.metrics(stage).unlink()
    with pytest.raises(DataError, match=rf"metrics/{stage}\.json: no such file"):
        build(settings, workspace)


def test_missing_or_broken_comparisons_are_named(settings: Settings, workspace: Workspace) -> None:
    pd.DataFrame({"id": [1]}).to_parquet(workspace.comparisons)
    with pytest.raises(DataError, match=r"comparisons\.parquet: not a table with the columns"):
        build(settings, workspace)
    workspace.comparisons.unlink()
    with pytest.raises(DataError, match=r"comparisons\.parquet: no such file"):
        build(settings, workspace)


def test_a_failed_build_leaves_the_old_page(
    settings: Settings, workspace: Workspace, tmp_path: Path
) -> None:
    before = built(settings, workspace)
    workspace.metrics("sft").write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match=r"sft\.json:1: not JSON"):
        build(settings, workspace)
    assert workspace.report.read_text(encoding="utf-8") == before
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["index.html"]
