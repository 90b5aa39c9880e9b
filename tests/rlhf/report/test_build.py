import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, write_json
from rlhf.common.yaml import parse_yaml
from rlhf.core.steps import StepLog
from rlhf.report.build import build
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.schema import Settings
from rlhf.settings.variants import VARIANTS
from rlhf.workspace import Workspace

VOID_TAGS = {"meta", "br", "img", "hr", "link", "input"}
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


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


@pytest.fixture
def few_figures(workspace: Workspace) -> Workspace:
    """The files of a run without its step logs: its page has no curves, and is drawn soon."""
    for stage in ("sft", "reward", "gold", "ppo"):
        workspace.steps(stage).unlink()
    return workspace


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
    assert len(figures) == 3 + 2 * 4 + 4 + 3 + 7 + 7 + 4
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


# -- a stage that is off --


@pytest.mark.parametrize("left", [True, False], ids=["empty-files", "no-files"])
def test_a_stage_that_is_off_is_said_to_be(
    settings: Settings, workspace: Workspace, left: bool
) -> None:
    for path in (workspace.metrics("dpo"), workspace.details("dpo")):
        write_json(path, {})
        if not left:
            path.unlink()
    workspace.steps("dpo").write_text("\n")
    page = built_page(settings, workspace)
    ParsedPage(page)
    section = page[page.index('<section id="dpo">') :]
    section = section[: section.index("</section>")]
    assert "Off: the settings have no section" in section and "<svg" not in section


def test_reward_models_that_are_off_are_said_to_be(
    settings: Settings, workspace: Workspace
) -> None:
    """The chain scores and judges by models from elsewhere: no numbers of ours, no empty charts."""
    for stage in ("reward", "gold"):
        write_json(workspace.metrics(stage), {})
        write_json(workspace.details(stage), {})
        workspace.steps(stage).write_text("\n")
    page = built_page(settings, workspace)
    ParsedPage(page)
    assert "Reward model accuracy" not in page and "Gold model accuracy" not in page
    for stage in ("reward", "gold"):
        section = page[page.index(f'<section id="{stage}-model">') :]
        section = section[: section.index("</section>")]
        assert f"Off: the settings have no section <code>{stage}</code>" in section
        assert "<svg" not in section and "PPO is trained against it" not in section


ELSEWHERE = {
    "reward": None,
    "gold": None,
    "data.gold_fraction": 0.0,
    "evaluate.gold": "hf:theirs",
    "ppo.critic.initial": "sft",
}
OWN = "python:tests/own_rewards/sums.py:words"


def laptop(changes: Mapping[str, Any]) -> Settings:
    return settings_from(parse_yaml(edited(preset_text("laptop"), changes, "laptop"), "laptop"))


@pytest.mark.parametrize(
    ("rewards", "title", "scored"),
    [
        ([OWN], f"Score by {OWN}", OWN),
        (["hf:theirs"], "Score by hf:theirs", "hf:theirs"),
        (
            [{"reward": "exact", "weight": 2.0}, "missing-end"],
            "Sum of the rewards",
            "2 × exact + missing-end",
        ),
    ],
    ids=["python", "hf", "rules"],
)
def test_the_words_follow_what_scored_and_judged(
    few_figures: Workspace, rewards: list[Any], title: str, scored: str
) -> None:
    for stage in ("reward", "gold"):
        write_json(few_figures.metrics(stage), {})
        write_json(few_figures.details(stage), {})
    page = built_page(laptop({**ELSEWHERE, "ppo.rewards": rewards}), few_figures)
    ParsedPage(page)
    assert f"<figcaption>{title}</figcaption>" in page and "Score of the reward model" not in page
    assert f"<dt>scored by</dt><dd>{scored}</dd>" in page
    assert f"The policy’s responses are scored by {scored}." in page
    assert "<dt>preference data</dt><dd>none learnt from</dd>" in page
    assert "Gold is hf:theirs." in page and "The judge gold is hf:theirs, a model from else" in page
    # the same model as reward and judge
    assert ("pleased its own teacher" in page) == ("hf:theirs" in rewards)


def test_models_of_ours_that_do_not_score_are_not_said_to(few_figures: Workspace) -> None:
    ours = built_page(laptop({}), few_figures)
    assert "<figcaption>Score of the reward model</figcaption>" in ours
    assert "PPO is trained against it." in ours and "It only judges: nothing is" in ours
    assert "<dt>preference data</dt><dd>starter</dd>" in ours and "own teacher" not in ours

    page = built_page(laptop({"ppo.rewards": [OWN], "evaluate.gold": "hf:theirs"}), few_figures)
    assert f"The policy is not trained against it: {OWN} scores its responses." in page
    assert "It did not judge: hf:theirs did in its place" in page
    page = built_page(laptop({"ppo.rewards": ["hf:models/gold"]}), few_figures)
    assert "It judges, and the policy is trained against it: hf:models/gold." in page
    assert "It only judges" not in page and "pleased its own teacher" in page
    page = built_page(laptop({"ppo.rewards": ["model:reward", "exact"]}), few_figures)
    assert "PPO is trained against it: the reward model + exact." in page


def test_iteration_0_is_said_to_be_the_first_policy(few_figures: Workspace) -> None:
    summary = read_json(few_figures.metrics("ppo"))
    write_json(few_figures.metrics("ppo"), summary | {"kept_step": 0})
    page = built_page(laptop({}), few_figures)
    assert "Iteration 0 is the SFT model: it is measured before the first update." in page
    assert "selected: the policy of iteration 0, which is the SFT model" in page
    assert "<h4>iteration 0, the SFT model <span>" in page
    page = built_page(laptop({"ppo.initial": "base"}), few_figures)
    assert "Iteration 0 is the base model:" in page and "iteration 0, the SFT" not in page


def test_one_that_is_on_shows_what_became_of_the_log_probabilities(page: str) -> None:
    section = page[page.index('<section id="dpo">') :]
    section = section[: section.index("</section>")]
    assert "66.4" in section and "−63.40" in section and "−60.20" in section


def test_a_policy_that_learnt_nothing_has_a_page_too(workspace: Workspace) -> None:
    """Algorithm dpo draws nothing and has no critic."""
    text = edited(preset_text("laptop"), VARIANTS["dpo"], "laptop")
    with closing(StepLog(workspace.steps("ppo"))) as log:
        log.write(0, {"validation_reward": 0.3, "validation_objective": 0.4, "score_seconds": 0.0})
    write_json(workspace.details("ppo"), {"reward_histograms": []})
    summary = {"validation_reward_first": 0.3, "validation_reward_last": 0.3, "seconds": 3.0}
    write_json(workspace.metrics("ppo"), {**summary, "collapsed": None, "iterations": 1})
    page = built_page(settings_from(parse_yaml(text, "laptop")), workspace)
    ParsedPage(page)
    assert "<dt>GAE λ</dt><dd>off</dd>" in page
