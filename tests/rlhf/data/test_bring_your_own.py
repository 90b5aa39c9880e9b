"""The settings of the page are settings, and its reward is a reward."""

import json
import re
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlhf.data
from rlhf.common.yaml import parse_yaml
from rlhf.data.parse import parse_row
from rlhf.data.records import Pair
from rlhf.data.rules import AS_PUBLISHED
from rlhf.rewards.records import ResponseRecord
from rlhf.settings import settings_from
from rlhf.settings.edit import edited
from rlhf.settings.presets import preset_text

PAGE = (Path(rlhf.data.__file__).parent / "bring_your_own.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def dotted(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Keys of the page as changes: `model.source` and so on."""
    changes: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            changes |= dotted(value, f"{before}{name}.")
        else:
            changes[before + name] = value
    return changes


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_keys_go_into_the_preset(text: str) -> None:
    changes = dotted(yaml.safe_load(text))
    written = edited(preset_text("laptop"), changes, "params.yaml")
    settings = settings_from(parse_yaml(written, "params.yaml"), "params.yaml")
    found = settings.model_dump(mode="json")
    for key, value in changes.items():
        if key != "ppo.rewards":
            assert reduce(getitem, key.split("."), found) == value


def test_its_pairs_are_pairs() -> None:
    text = next(text for text in blocks("json") if "chosen" in text)
    one, other = [parse_row(json.loads(line), None, AS_PUBLISHED) for line in text.splitlines()]
    assert isinstance(one.record, Pair) and one.record == other.record


def test_a_section_of_the_page_can_be_pasted_below_its_keys() -> None:
    """A section in braces would take the place of the keys that stay."""
    critics = [text for text in blocks("yaml") if "critic:" in text]
    assert critics and not [text for text in critics if "critic: {" in text]


def test_its_reward_scores_records() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    record = ResponseRecord(
        prompt="user: Why?",
        messages=({"role": "user", "content": "Why?"},),
        response="So it is.",
        reference=None,
        kind="other",
        finished=True,
        length=4,
    )
    assert names["short"]([record]) == [-0.3]
