import json

import pytest

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, write_json
from rlhf.common.yaml import parse_yaml
from rlhf.report.inputs import read_inputs
from rlhf.report.ppo_plots import plot_groups
from rlhf.report.sections import most_wrong, sample_timelines, settings_sections, stage_timings
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def test_timings_are_shares_of_the_longest_stage(workspace: Workspace) -> None:
    timings = stage_timings(read_inputs(workspace))
    stages = [timing.stage for timing in timings]
    assert stages == ["fetch", "prepare", "sft", "reward", "dpo", "ppo", "gold", "evaluate"]

    ppo = timings[stages.index("ppo")]
    assert (ppo.seconds, ppo.share) == (421.5, 1.0)
    assert ppo.rates == [
        ("rollout_tokens_per_second", 288.0),
        ("update_tokens_per_second", 190.2),
    ]
    assert timings[stages.index("sft")].share == pytest.approx(148.0 / 421.5)


def test_a_stage_without_seconds_has_no_timing(workspace: Workspace) -> None:
    summary = read_json(workspace.metrics("sft"))
    del summary["seconds"]
    write_json(workspace.metrics("sft"), summary)
    assert "sft" not in {timing.stage for timing in stage_timings(read_inputs(workspace))}


def test_every_setting_is_in_one_section(settings: Settings) -> None:
    sections = settings_sections(settings)
    assert sections[0][0] == "general"
    content = {}
    for name, text in sections:
        values = parse_yaml(text, name)
        content |= values if name == "general" else {name: values}
    assert content == settings.model_dump(mode="json", by_alias=True)


def test_samples_of_three_prompts_at_six_iterations() -> None:
    samples = [
        {"step": step, "prompt": f"prompt {number}", "kind": "helpful", "response": "x"}
        for step in range(20)
        for number in range(5)
    ]
    timelines = sample_timelines(samples)
    assert [timeline.prompt for timeline in timelines] == ["prompt 0", "prompt 1", "prompt 2"]
    for timeline in timelines:
        steps = [sample["step"] for sample in timeline.samples]
        assert len(steps) == 6 and (steps[0], steps[-1]) == (0, 19)


def test_a_wrong_pair_whose_dialogue_cannot_be_read_is_named() -> None:
    good = {"messages": json.dumps([{"role": "user", "content": "hi"}])}
    assert most_wrong({"most_wrong": [good]}, "gold")[0]["messages"][0]["content"] == "hi"
    with pytest.raises(DataError, match=r"gold_details\.json, most_wrong 1"):
        most_wrong({"most_wrong": [good, {"messages": "{"}]}, "gold")


def test_each_of_several_rewards_has_its_curve() -> None:
    def plots(*names: str) -> list[tuple[str, list[str]]]:
        means = {f"reward_{name}{end}": 0.5 for name in names for end in ("", "_std")}
        rows = [{"step": -1, "value_loss": 1.0}, {"step": 0, "reward": 1.0, "reward_std": 1.0}]
        rows[1] |= {"reward_normalised": 0.1, "reward_model_failures": 0.0, **means}
        reward = plot_groups("Score", rows)[0]
        return [(plot.name, [curve.key for curve in plot.curves]) for plot in reward.plots]

    sum_of_all = ("ppo-reward", ["reward", "validation_reward"])
    normalised = ("ppo-normalised", ["reward_normalised"])
    # one that reads text is alone in the log: it is the sum
    assert plots() == plots("python_short") == [sum_of_all, normalised]
    both = ("ppo-rewards", ["reward_model", "reward_python_short"])
    assert plots("model", "python_short") == [sum_of_all, both, normalised]
    # lines of many rewards can still be told apart
    _, many, _ = plot_groups("Score", _log_of(8))[0].plots
    assert len({(curve.color, curve.dashed) for curve in many.curves}) == 8


def _log_of(rewards: int) -> list[dict[str, float]]:
    return [{f"reward_r{n}{end}": 0.5 for n in range(rewards) for end in ("", "_std")}]
