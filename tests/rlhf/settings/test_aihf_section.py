"""Which settings go together with algorithms aihf and aihf-direct, and which are refused by name."""

from collections.abc import Mapping
from typing import Any

import pytest
from neighbours import AIHF, AIHF_DIRECT
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.registry import REWARDS
from rlhf.settings import preset_text, settings_from
from rlhf.settings.advice import advice
from rlhf.settings.edit import edited
from rlhf.settings.variants import VARIANTS


@pytest.mark.parametrize("changes", [AIHF, AIHF_DIRECT], ids=["aihf", "aihf-direct"])
def test_what_was_read_can_be_read_again(changes: Mapping[str, Any]) -> None:
    settings = tiny_settings(changes)
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


DEEPSPEED: Mapping[str, Any] = {"engine.kind": "deepspeed", "engine.processes": 4}
LINEAR: Mapping[str, Any] = {"ppo.aihf.form": "linear"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.aihf.beta": 0.1}, "ppo.aihf: form logistic has no beta: it must be null"),
        (LINEAR, "ppo.aihf: form linear needs a beta, 0.1 for one"),
        ({**LINEAR, "ppo.aihf.beta": 0.0}, "ppo.aihf.beta: must be greater than 0"),
        ({"ppo.aihf.form": "direct"}, "ppo.aihf.form: must be 'logistic' or 'linear'"),
        (
            {"ppo.aihf.demonstration_weight": 0.0, "ppo.aihf.pair_weight": 0.0},
            "ppo.aihf: demonstration_weight or pair_weight must be above 0",
        ),
        (
            {"ppo.aihf.pair_weight": -1.0},
            "ppo.aihf.pair_weight: must be greater than or equal to 0",
        ),
        ({"ppo.aihf.reward_epochs": 0}, "ppo.aihf.reward_epochs: must be greater than or equal"),
        ({"ppo.aihf.optimizer": None}, "ppo.aihf.optimizer: must be a mapping of keys"),
        ({"ppo.aihf": None}, "needs ppo.aihf: (`rlhf preset laptop --variant aihf` writes it)"),
        # PPO-max pays the policy, so it cannot do without
        ({"ppo.critic": None}, "algorithm aihf needs a section ppo.critic"),
        (
            {**DEEPSPEED, "ppo.micro_batch": 1},
            "ppo.aihf.pairs 6 is not a multiple of engine.processes = 4",
        ),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_what_means_nothing_to_aihf_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**AIHF, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize("rewards", [["length:2"], ["model:reward", "length:2"]])
def test_what_pays_must_be_able_to_learn(
    monkeypatch: pytest.MonkeyPatch, rewards: list[str]
) -> None:
    monkeypatch.setitem(REWARDS, "length", "nowhere:Length")
    with pytest.raises(SettingsError, match=r"aihf needs rewards: \[model:reward\], whose model"):
        tiny_settings({**AIHF, "ppo.rewards": rewards})
    # where rewards only judge, any will do
    settings = tiny_settings({**AIHF_DIRECT, "ppo.rewards": rewards})
    assert [source.reward for source in settings.ppo.rewards] == rewards


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ppo.aihf_direct": None},
            "needs ppo.aihf_direct: (`rlhf preset laptop --variant aihf-direct`",
        ),
        ({"ppo.aihf_direct.beta": None}, "ppo.aihf_direct.beta: must be a valid number"),
        ({"ppo.aihf_direct.form": "linear"}, "ppo.aihf_direct.form: unknown key"),
        ({"ppo.gae": {"gamma": 1.0, "lambda": 0.95}}, "aihf-direct needs ppo.gae: null"),
        ({"ppo.kl": {"coefficient": 0.05, "estimator": "k1"}}, "aihf-direct needs ppo.kl: null"),
        ({"ppo.surrogate_clip": 0.2}, "aihf-direct needs ppo.surrogate_clip: null"),
        ({"ppo.responses": 2}, "aihf-direct needs ppo.responses: 1"),
        ({"ppo.aihf": AIHF["ppo.aihf"]}, "aihf-direct needs ppo.aihf: null"),
        (
            {"ppo.advantage": {"normalise": "mini-batch", "clip": None}},
            "aihf-direct needs ppo.advantage: null",
        ),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_what_means_nothing_to_aihf_direct_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**AIHF_DIRECT, **changes})
    assert message in str(caught.value)


def test_another_algorithm_has_no_such_sections() -> None:
    for key in ("aihf", "aihf_direct"):
        algorithm = AIHF if key == "aihf" else AIHF_DIRECT
        with pytest.raises(SettingsError, match=rf"algorithm ppo-max needs ppo\.{key}: null"):
            tiny_settings({f"ppo.{key}": algorithm[f"ppo.{key}"]})


def test_advice_on_ppo_holds_for_its_policy_half() -> None:
    text = edited(preset_text("laptop"), VARIANTS["aihf"], "laptop")
    ppo = settings_from(parse_yaml(edited(text, {"ppo.kl": None}, "laptop"), "laptop")).ppo
    assert [sentence.split(":")[0] for sentence in advice(ppo)] == ["ppo.kl is null"]
