"""What the page says where a stage is off, or other models score and judge."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
from built_pages import ParsedPage, built_page

from rlhf.common.files import read_json, write_json
from rlhf.common.yaml import parse_yaml
from rlhf.core.steps import StepLog
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.schema import Settings
from rlhf.settings.variants import VARIANTS
from rlhf.workspace import Workspace


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
