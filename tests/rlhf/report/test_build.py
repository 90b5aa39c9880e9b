import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from built_pages import ParsedPage, built_page

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, write_json
from rlhf.report.build import build
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


# -- the page as a whole --


def test_the_page_is_well_formed_and_self_contained(page: str) -> None:
    parsed = ParsedPage(page)
    for tag in ("script", "link", "img", "iframe"):
        assert parsed.tags[tag] == 0
    assert [name for name, count in parsed.ids.items() if count > 1] == []
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page)


def test_every_class_of_the_page_has_a_style(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    used = {
        name
        for attribute, value in ParsedPage(page).attributes
        if attribute == "class"
        for name in value.split()
    }
    assert used <= set(re.findall(r"\.([a-z][a-z-]*)", style))


def test_every_figure_is_drawn_and_follows_the_theme(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    # SFT, both reward models, DPO, the three groups of PPO, evaluation
    assert len(figures) == 3 + 2 * 4 + 4 + 3 + 8 + 7 + 4
    assert "Not recorded" not in page
    variables = set(re.findall(r"(--[a-z-]+):", page))
    for figure in figures:
        ET.fromstring(figure)
        assert "aria-label" in figure
        # every colour is a variable of the theme
        assert re.findall(r"#[0-9a-f]{6}\b", figure) == []
        assert set(re.findall(r"var\((--[a-z-]+)\)", figure)) <= variables


def test_the_same_files_give_the_same_page(
    page: str, settings: Settings, workspace: Workspace
) -> None:
    assert built_page(settings, workspace) == page


def test_hostile_text_is_shown_escaped_everywhere(
    settings: Settings, few_figures: Workspace
) -> None:
    messages = json.dumps([{"role": HOSTILE, "content": HOSTILE}])
    table = pd.read_parquet(few_figures.comparisons)
    table.assign(
        response_challenger=HOSTILE, response_baseline=HOSTILE, messages=messages, kind=HOSTILE
    ).to_parquet(few_figures.comparisons)
    sample = {"step": 0, "kind": HOSTILE, "prompt": HOSTILE, "response": HOSTILE, "reward": 1.0}
    few_figures.samples("ppo").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    details = read_json(few_figures.details("reward"))
    for pair in details["most_wrong"]:
        pair |= {"messages": messages, "chosen": HOSTILE, "rejected": HOSTILE, "kind": HOSTILE}
    write_json(few_figures.details("reward"), details)
    write_json(few_figures.details("prepare"), {"files": {HOSTILE: {HOSTILE: 3}}})

    text = built_page(settings.model_copy(update={"experiment": HOSTILE}), few_figures)
    parsed = ParsedPage(text)
    assert parsed.tags["script"] == parsed.tags["img"] == 0
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert "&lt;script&gt;alert(" in text
    # not run as a template either, and not escaped twice
    assert "{{ 7 * 7 }}" in text
    assert "&amp;lt;" not in text


# -- what the page says --


def test_commit_preset_and_changed_keys_are_shown(
    page: str, settings: Settings, few_figures: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "commit</dt>" not in page
    monkeypatch.setenv("RLHF_GIT_COMMIT", "0123456789ab with changes")
    text = built_page(settings, few_figures)
    assert "<code>0123456789ab with changes</code>" in text
    assert "laptop, changed: seed" in text
    assert "<td><code>seed</code></td><td>1</td><td>977</td>" in text


def test_headline_numbers_are_those_of_the_files(page: str) -> None:
    # win_rate is 0.51 + 0.15 / 2
    assert '<p class="big">58.5\u202f%</p>' in page
    assert "95 % interval 49.0\u202f% – 67.0\u202f%" in page
    assert 'style="flex: 0.5100 0 0"' in page
    assert "the paper’s own results (fig. 10)" in page


def test_a_missing_win_rate_at_equal_length_is_a_dash(
    settings: Settings, few_figures: Workspace
) -> None:
    keys = [f"win_rate_length_controlled{end}" for end in ("", "_low", "_high")]
    details = read_json(few_figures.details("evaluate"))
    headline, other = details["comparisons"]
    headline["metrics"] |= dict(zip(keys, (0.62, 0.5, 0.7), strict=True))
    other["metrics"] |= dict.fromkeys(keys)
    write_json(few_figures.details("evaluate"), details)
    text = built_page(settings, few_figures)
    cells = (
        '<td class="number">{}</td><td class="number">{}</td><td class="number">57.0\u202f%</td>'
    )
    assert text.count(cells.format("62.0\u202f%", "50.0\u202f% – 70.0\u202f%")) == 1
    assert text.count(cells.format("–", "–")) == 1


def test_scores_of_dialogues_carry_the_name_of_their_judge(
    settings: Settings, few_figures: Workspace
) -> None:
    evaluate = settings.evaluate.model_copy(update={"judges": ("rules",)})
    table = pd.read_parquet(few_figures.comparisons).assign(judge="rules")
    table.to_parquet(few_figures.comparisons)
    text = built_page(settings.model_copy(update={"evaluate": evaluate}), few_figures)
    assert re.search(r"<h4>policy <span>rules [+−]\d", text)
    assert not re.search(r"<h4>policy <span>gold", text)


def test_details_of_an_older_version_are_named_with_what_they_lack(
    settings: Settings, workspace: Workspace
) -> None:
    details = read_json(workspace.details("evaluate"))
    for comparison in details["comparisons"]:
        del comparison["metrics"]
    write_json(workspace.details("evaluate"), details)
    with pytest.raises(
        DataError, match=r"evaluate_details\.json: its comparisons have no `metrics`"
    ) as refused:
        build(settings, workspace)
    assert "\n" not in str(refused.value)


def test_a_collapsed_run_is_marked(page: str, settings: Settings, few_figures: Workspace) -> None:
    assert "do not trust the reward" not in page
    summary = few_figures.metrics("ppo")
    write_json(summary, read_json(summary) | {"collapsed": True})
    assert "do not trust the reward" in built_page(settings, few_figures)


# -- missing and broken files --


def test_missing_optional_files_give_notes(settings: Settings, workspace: Workspace) -> None:
    optional = [workspace.metrics("fetch"), workspace.metrics("prepare"), workspace.samples("ppo")]
    optional += [workspace.steps(stage) for stage in ("sft", "reward", "gold", "ppo")]
    optional += [workspace.details(stage) for stage in ("prepare", "reward", "gold", "ppo")]
    for path in optional:
        path.unlink()
    text = built_page(settings, workspace)
    ParsedPage(text)
    assert "metrics/prepare.json is missing" in text
    assert "No samples were recorded" in text
    assert text.count("Not recorded in this run.") > 10


def test_empty_summaries_still_make_a_page(settings: Settings, workspace: Workspace) -> None:
    for stage in ("sft", "reward", "ppo", "gold", "evaluate"):
        write_json(workspace.metrics(stage), {"accuracy_helpful": None})
    ParsedPage(built_page(settings, workspace))


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "gold", "evaluate"])
def test_a_missing_summary_is_named(settings: Settings, workspace: Workspace, stage: str) -> None:
    workspace.metrics(stage).unlink()
    with pytest.raises(DataError, match=rf"metrics/{stage}\.json: no such file"):
        build(settings, workspace)


def test_missing_figures_of_the_comparisons_are_named(
    settings: Settings, workspace: Workspace
) -> None:
    workspace.details("evaluate").unlink()
    with pytest.raises(DataError, match=r"metrics/evaluate_details\.json: no such file"):
        build(settings, workspace)


def test_missing_or_broken_comparisons_are_named(settings: Settings, workspace: Workspace) -> None:
    table = pd.read_parquet(workspace.comparisons)
    table.assign(messages="[{}]").to_parquet(workspace.comparisons)
    with pytest.raises(DataError, match=r"comparisons\.parquet, row 0: messages is not"):
        build(settings, workspace)

    pd.DataFrame({"id": [1]}).to_parquet(workspace.comparisons)
    with pytest.raises(DataError, match=r"comparisons\.parquet: not a table with the columns"):
        build(settings, workspace)

    workspace.comparisons.unlink()
    with pytest.raises(DataError, match=r"comparisons\.parquet: no such file"):
        build(settings, workspace)


def test_a_failed_build_leaves_the_old_page(
    settings: Settings, few_figures: Workspace, tmp_path: Path
) -> None:
    before = built_page(settings, few_figures)
    few_figures.metrics("sft").write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match=r"sft\.json:1: not JSON"):
        build(settings, few_figures)
    assert few_figures.report.read_text(encoding="utf-8") == before
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["index.html"]
