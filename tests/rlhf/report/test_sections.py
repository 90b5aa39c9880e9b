import json

import pytest

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, write_json
from rlhf.common.yaml import parse_yaml
from rlhf.report.inputs import read_inputs
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
