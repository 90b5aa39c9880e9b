"""`reward: null` and `gold: null`: stages that are off where other models score and judge."""

import re
from typing import Any

import pytest
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.stages import STAGES

OTHERS = {"ppo.rewards": ["hf:theirs"], "ppo.critic.initial": "sft"}


def test_they_may_be_off_where_nobody_reads_them() -> None:
    settings = tiny_settings({**OTHERS, "reward": None, "gold": None, "evaluate.gold": "hf:theirs"})
    assert STAGES["reward"].is_off(settings) and STAGES["gold"].is_off(settings)
    assert not STAGES["reward"].is_off(tiny_settings())
    # other judges do without it as well
    tiny_settings({"gold": None, "evaluate.judges": ["rules"], "data.gold_fraction": 0.0})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward": None}, "ppo.rewards names model:reward, whose stage is off (reward: null)"),
        (
            {"reward": None, "ppo.rewards": ["missing-end"]},
            "ppo.critic.initial is reward, a model whose stage is off (reward: null): set it to sft",
        ),
        ({"gold": None}, "evaluate.judges names gold, whose stage is off (gold: null)"),
        (
            {"data.gold_fraction": 0.0},
            "data.gold_fraction is 0, which leaves no pairs for the gold",
        ),
    ],
)
def test_what_reads_one_that_is_off_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        tiny_settings(changes)
