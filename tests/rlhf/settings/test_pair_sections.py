"""Which settings go together with algorithms xpo and online-dpo, and which are refused by name."""

from typing import Any

import pytest
from neighbours import online_dpo, xpo
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.neighbours import OnlineDpoSettings, XpoSettings
from rlhf.settings.reads import OWN_SECTION
from rlhf.settings.variants import VARIANTS


def test_their_sections_are_read() -> None:
    ppo = tiny_settings(xpo(beta=0.3, alpha=[0.1, 0.0], second="policy", loss="ipo")).ppo
    assert ppo.xpo is not None and ppo.online_dpo is None
    assert (ppo.xpo.beta, ppo.xpo.alpha, ppo.xpo.second) == (0.3, (0.1, 0.0), "policy")
    ppo = tiny_settings(online_dpo(beta=0.3, accumulate=True)).ppo
    assert ppo.online_dpo is not None and ppo.xpo is None
    assert ppo.online_dpo.beta == 0.3 and ppo.online_dpo.accumulate


def test_the_defaults_are_the_vetted_values() -> None:
    assert XpoSettings().model_dump() == {
        "beta": 0.1,
        "loss": "sigmoid",
        "accumulate": True,
        "judge": None,
        "alpha": (1e-5, 5e-6, 0.0),
        "second": "reference",
    }
    assert OnlineDpoSettings().model_dump() == {
        "beta": 0.1,
        "loss": "sigmoid",
        "accumulate": False,
        "judge": None,
    }


@pytest.mark.parametrize("changes", [xpo(), online_dpo()], ids=["xpo", "online-dpo"])
def test_what_was_read_can_be_read_again(changes: dict[str, Any]) -> None:
    settings = tiny_settings(changes)
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.xpo": None}, "algorithm xpo needs ppo.xpo: {beta: 0.1, alpha: [1.0e-5, 5.0e-6, 0.0], "),
        (xpo(beta=0.0), "ppo.xpo.beta: must be greater than 0"),
        (xpo(alpha=[]), "ppo.xpo.alpha: "),
        (xpo(alpha=[-1e-5]), "ppo.xpo.alpha"),
        (xpo(second="base"), "ppo.xpo.second: must be "),
        (xpo(loss="hinge"), "ppo.xpo.loss: must be "),
        (xpo(lambda_=1.0), "ppo.xpo.lambda_: unknown key"),
        (xpo(judge="gold"), "ppo.xpo.judge: gold judges the finished policy"),
        (xpo(judge="people:votes.jsonl"), "ppo.xpo.judge: nobody votes while a policy learns"),
        (xpo(judge="gpt-4"), "ppo.xpo.judge: must begin with one of api, gold, people, rules"),
        (xpo(judge="rules:3"), "ppo.xpo.judge: rules stands alone"),
        (xpo(judge="api"), "ppo.xpo.judge: expected api:NAME"),
        (xpo(judge="api:gpt-4"), "xpo.judge: api:gpt-4: no such endpoint; ppo.endpoints has none"),
        ({"ppo.kl": {"coefficient": 0.05, "estimator": "k1"}}, "xpo needs ppo.kl: null"),
        ({"ppo.surrogate_clip": 0.2}, "xpo needs ppo.surrogate_clip: null"),
        ({"ppo.gae": {"gamma": 1.0, "lambda": 0.95}}, "xpo needs ppo.gae: null"),
        ({"ppo.responses": 2}, "xpo needs ppo.responses: 1"),
        ({"ppo.advantage": {"normalise": "mini-batch", "clip": None}}, "xpo needs ppo.advantage: null"),
        ({"ppo.apa": {"lambda": 0.1}}, "xpo needs ppo.apa: null"),
        (
            {"ppo.online_dpo": {"beta": 0.1, "loss": "sigmoid", "accumulate": False}},
            "xpo needs ppo.online_dpo: null",
        ),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_means_nothing_to_xpo_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**xpo(), **changes})
    assert message in str(caught.value)


def test_the_name_alone_is_refused_with_all_that_must_go_with_it() -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.algorithm": "online-dpo"})
    assert str(caught.value) == (
        "settings: ppo: algorithm online-dpo needs ppo.critic: null, ppo.gae: null, ppo.kl: null, "
        "ppo.ptx: null, ppo.surrogate_clip: null, ppo.value_clip: null, "
        "ppo.online_dpo: {beta: 0.1, loss: sigmoid, accumulate: false, judge: null}; "
        "what it does not read must be off"
    )


def test_another_algorithm_has_no_such_section() -> None:
    section = {"beta": 0.1, "loss": "sigmoid", "accumulate": False}
    with pytest.raises(SettingsError, match=r"ppo-max needs ppo\.online_dpo: null; what it does"):
        tiny_settings({"ppo.online_dpo": section})


@pytest.mark.parametrize(
    ("name", "section"), [("xpo", XpoSettings()), ("online-dpo", OnlineDpoSettings())]
)
def test_what_is_advised_and_what_the_variant_writes_are_the_defaults(
    name: str, section: XpoSettings | OnlineDpoSettings
) -> None:
    advised = parse_yaml(f"section: {OWN_SECTION[name]}", name)["section"]
    assert type(section).model_validate(advised) == section
    text = edited(preset_text("laptop"), VARIANTS[name], "laptop")
    ppo = settings_from(parse_yaml(text, "laptop")).ppo
    assert section in (ppo.xpo, ppo.online_dpo)
    assert ppo.algorithm == name and ppo.critic is None


def test_a_key_that_stands_where_its_variable_should_is_not_repeated() -> None:
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_variable": "sk-hunter2"}
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**xpo(judge="api:a"), "ppo.endpoints": {"a": endpoint}})
    message = str(caught.value)
    assert "ppo.endpoints.a.key_variable: the name of an environment variable" in message
    assert "hunter2" not in message
