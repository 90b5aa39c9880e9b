"""Which settings go together with algorithm apa, and which are refused by name."""

from types import NoneType
from typing import Any, get_args

import pytest
from neighbours import APA, AWR
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.registry import ALGORITHMS
from rlhf.settings import settings_from
from rlhf.settings.policy import Ppo
from rlhf.settings.reads import READS


def test_its_section_is_read() -> None:
    ppo = tiny_settings({**APA, "ppo.apa": {"lambda": 0.3}}).ppo
    assert ppo.apa is not None and ppo.apa.lam == 0.3


def test_a_section_from_before_the_control_joined_means_the_squared_loss() -> None:
    ppo = tiny_settings(APA).ppo
    assert ppo.apa is not None and ppo.apa.loss == "square"
    control = tiny_settings(AWR).ppo.apa
    assert control is not None and (control.loss, control.lam) == ("awr", 1.0)


def test_what_was_read_can_be_read_again() -> None:
    settings = tiny_settings(APA)
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.apa": None}, "algorithm apa needs ppo.apa: {lambda: 0.1}"),
        ({"ppo.apa": {"lambda": 0.0}}, "ppo.apa.lambda: must be greater than 0"),
        ({"ppo.apa": {"lambda": -1.0}}, "ppo.apa.lambda: must be greater than 0"),
        ({"ppo.apa": {"beta": 1.0}}, "ppo.apa.beta: unknown key"),
        ({"ppo.apa": {"lambda": 1.0, "loss": "log"}}, "ppo.apa.loss: must be 'square' or 'awr'"),
        ({"ppo.kl": {"coefficient": 0.05, "estimator": "k1"}}, "apa needs ppo.kl: null"),
        ({"ppo.surrogate_clip": 0.2}, "apa needs ppo.surrogate_clip: null"),
        ({"ppo.penalty": {"coefficient": 1.0, "target": None}}, "apa needs ppo.penalty: null"),
        ({"ppo.entropy": {"coefficient": 0.1, "target": None}}, "apa needs ppo.entropy: null"),
        ({"ppo.ptx": {"coefficient": 0.1, "windows": 1}}, "apa needs ppo.ptx: null"),
        ({"ppo.importance": "reference"}, "apa needs ppo.importance: policy"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_what_means_nothing_to_apa_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**APA, **changes})
    assert message in str(caught.value)


def test_the_name_alone_is_refused_with_all_that_must_go_with_it() -> None:
    """As `dvc exp run -S ppo.algorithm=apa` would have it."""
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.algorithm": "apa"})
    assert str(caught.value) == (
        "settings: ppo: algorithm apa needs ppo.kl: null, ppo.ptx: null, ppo.surrogate_clip: null, "
        "ppo.apa: {lambda: 0.1}; what it does not read must be off"
    )


def test_another_algorithm_has_no_such_section() -> None:
    with pytest.raises(
        SettingsError, match=r"algorithm ppo-max needs ppo\.apa: null; what it does"
    ):
        tiny_settings({"ppo.apa": {"lambda": 0.1}})


def test_an_algorithm_of_your_own_may_read_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "mine", "rlhf.algorithms.ppo_max:PpoMax")
    settings = tiny_settings({"ppo.algorithm": "mine", "ppo.apa": {"lambda": 0.3}})
    assert settings.ppo.apa is not None and settings.ppo.kl is not None


def test_every_key_that_can_be_off_is_either_read_by_all_or_in_the_table() -> None:
    """A new one that a single algorithm reads must not be ignored in silence by the others."""
    can_be_off = {
        name for name, field in Ppo.model_fields.items() if NoneType in get_args(field.annotation)
    }
    of_some = {key for keys in READS.values() for key in keys}
    # models and the loop read these for whatever algorithm
    of_all = {"trainable_layers", "lora", "max_response_tokens"}
    assert can_be_off | {"importance", "responses"} == of_some | of_all
    # one of your own may have no line there
    assert READS.keys() <= ALGORITHMS.keys()


def test_an_unknown_algorithm_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"ppo\.algorithm: must be one of .*apa, "):
        tiny_settings({"ppo.algorithm": "no-such-one"})
