from typing import Any

import pytest
from neighbours import APA, AWR, online_dpo, xpo
from tiny import tiny_settings

from rlhf.settings.advice import advice

WHITENED = {"normalise": "mini-batch", "clip": 0.5}


def test_ppo_max_is_without_reproach() -> None:
    assert advice(tiny_settings().ppo) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ppo.kl": None}, ["ppo.kl is null"]),
        ({"ppo.advantage": WHITENED}, ["ppo.advantage.normalise with ppo.value_clip", "ppo.advantage.normalise with ppo.reward"]),
        ({"ppo.advantage": {"normalise": None, "clip": 0.5}}, []),
        ({"ppo.advantage": WHITENED, "ppo.value_clip": None, "ppo.reward.normalise": None}, []),
        ({"ppo.reward": {"normalise": None, "scale": "running", "clip": None}}, ["ppo.reward.scale"]),
        ({"ppo.reward.clip": 0.3}, ["ppo.reward.clip"]),
        ({"ppo.entropy": {"coefficient": 0.01, "target": 3.0}}, ["ppo.entropy.target"]),
        ({"ppo.entropy": {"coefficient": 0.01, "target": None}}, []),
        ({"ppo.initial": "base"}, ["ppo.initial"]),
        ({"ppo.critic.initial": "sft", "ppo.critic.pretraining_iterations": 0}, ["ppo.critic"]),
        ({"ppo.importance": "reference"}, ["ppo.importance"]),
        (xpo(), []),
        (xpo(beta=0.1, alpha=[0.0, 0.06]), ["ppo.xpo.alpha above half of ppo.xpo.beta"]),
        (xpo(beta=0.1, alpha=[0.05]), []),
        (xpo(beta=0.1, alpha=[0.06], loss="ipo"), []),
        (online_dpo(), []),
        (AWR, []),
        (AWR | {"ppo.apa": {"lambda": 0.1, "loss": "awr"}}, ["ppo.apa.lambda below 1 with ppo.apa.loss"]),
        (APA, []),
        # scores are only compared: how they would be rescaled means nothing
        (online_dpo() | {"ppo.reward": {"normalise": None, "scale": "running", "clip": 0.3}}, []),
    ],
)  # fmt: skip
def test_what_the_paper_advises_against_is_named(changes: dict[str, Any], named: list[str]) -> None:
    found = advice(tiny_settings(changes).ppo)
    assert len(found) == len(named)
    assert all(sentence.startswith(name) for sentence, name in zip(found, named, strict=True))
