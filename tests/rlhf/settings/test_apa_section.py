"""Which settings go together with algorithm apa, and which are refused by name."""

from typing import Any

import pytest
from tiny import APA, tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.settings import settings_from


def test_its_section_is_read() -> None:
    ppo = tiny_settings({**APA, "ppo.apa": {"lambda": 0.3}}).ppo
    assert ppo.apa is not None and ppo.apa.lam == 0.3


def test_what_was_read_can_be_read_again() -> None:
    settings = tiny_settings(APA)
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.apa": None}, "algorithm apa needs its section: apa: {lambda: 0.1}"),
        ({"ppo.apa": {"lambda": 0.0}}, "ppo.apa.lambda: must be greater than 0"),
        ({"ppo.apa": {"lambda": -1.0}}, "ppo.apa.lambda: must be greater than 0"),
        ({"ppo.apa": {"beta": 1.0}}, "ppo.apa.beta: unknown key"),
        ({"ppo.kl": {"coefficient": 0.05, "estimator": "k1"}}, "kl must be null"),
        ({"ppo.surrogate_clip": 0.2}, "surrogate_clip must be null"),
        ({"ppo.penalty": {"coefficient": 1.0, "target": None}}, "penalty must be null"),
        ({"ppo.entropy": {"coefficient": 0.1, "target": None}}, "entropy must be null"),
        ({"ppo.importance": "reference"}, "importance must be policy"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_what_means_nothing_to_apa_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**APA, **changes})
    assert message in str(caught.value)


def test_another_algorithm_has_no_such_section() -> None:
    with pytest.raises(SettingsError, match="apa: the section of algorithm apa; ppo-max has none"):
        tiny_settings({"ppo.apa": {"lambda": 0.1}})


def test_an_unknown_algorithm_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"ppo\.algorithm: must be one of apa, ppo-max"):
        tiny_settings({"ppo.algorithm": "reinforce"})
