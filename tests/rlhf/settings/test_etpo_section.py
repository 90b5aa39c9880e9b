"""Which settings go together with algorithm etpo, and which are refused by name."""

from typing import Any

import pytest
from neighbours import APA, ETPO
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.settings import settings_from
from rlhf.settings.advice import advice

SECTION = ETPO["ppo.etpo"]
PARTED = {"engine.kind": "deepspeed", "engine.zero_stage": 3}
FROZEN_IN_PARTS = {"engine.kind": "deepspeed", "engine.frozen_models": "sharded"}


def test_its_section_is_read_and_can_be_read_again() -> None:
    settings = tiny_settings(ETPO | {"ppo.etpo": {**SECTION, "huber": None, "form": "published"}})
    etpo = settings.ppo.etpo
    assert etpo is not None
    assert (etpo.beta, etpo.polyak, etpo.huber, etpo.form) == (0.1, 0.9, None, "published")
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.etpo": None}, "algorithm etpo needs ppo.etpo: {beta: 0.01, polyak: 0.995, huber: 10.0, form: exact}"),
        ({"ppo.etpo": {**SECTION, "beta": 0.0}}, "ppo.etpo.beta: must be greater than 0"),
        ({"ppo.etpo": {**SECTION, "polyak": 1.0}}, "ppo.etpo.polyak: must be less than 1"),
        ({"ppo.etpo": {**SECTION, "polyak": -0.1}}, "ppo.etpo.polyak: must be greater than or equal to 0"),
        ({"ppo.etpo": {**SECTION, "huber": 0.0}}, "ppo.etpo.huber: must be greater than 0"),
        ({"ppo.etpo": {**SECTION, "form": "code"}}, "ppo.etpo.form: must be 'exact' or 'published'"),
        ({"ppo.etpo": {**SECTION, "gamma": 1.0}}, "ppo.etpo.gamma: unknown key"),
        ({"ppo.critic": None}, "etpo needs a section ppo.critic"),
        ({"ppo.gae": {"gamma": 1.0, "lambda": 0.95}}, "etpo needs ppo.gae: null"),
        ({"ppo.value_clip": 0.2}, "etpo needs ppo.value_clip: null"),
        ({"ppo.kl": {"coefficient": 0.05, "estimator": "k1"}}, "etpo needs ppo.kl: null"),
        ({"ppo.surrogate_clip": 0.2}, "etpo needs ppo.surrogate_clip: null"),
        ({"ppo.advantage": {"normalise": "mini-batch", "clip": None}}, "etpo needs ppo.advantage: null"),
        ({"ppo.entropy": {"coefficient": 0.1, "target": None}}, "etpo needs ppo.entropy: null"),
        ({"ppo.ptx": {"coefficient": 0.1, "windows": 1}}, "etpo needs ppo.ptx: null"),
        ({"ppo.importance": "reference"}, "etpo needs ppo.importance: policy"),
        ({"ppo.apa": {"lambda": 0.1}}, "etpo needs ppo.apa: null"),
        (FROZEN_IN_PARTS, "algorithm etpo needs engine.frozen_models: whole: its target network"),
        (PARTED, "algorithm etpo needs engine.zero_stage 1 or 2: its target network follows whole weights"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_means_nothing_to_etpo_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**ETPO, **changes})
    assert message in str(caught.value)


def test_the_other_stages_of_zero_are_accepted() -> None:
    for stage in (1, 2):
        tiny_settings({**ETPO, **PARTED, "engine.zero_stage": stage})
    # and the third one where no weights are in parts, or nothing follows them
    tiny_settings({**ETPO, "engine.zero_stage": 3})
    tiny_settings(PARTED)


def test_several_responses_to_a_prompt_are_accepted() -> None:
    assert tiny_settings({**ETPO, "ppo.responses": 2}).ppo.responses == 2


@pytest.mark.parametrize("other", [{}, APA], ids=["ppo-max", "apa"])
def test_another_algorithm_has_no_such_section(other: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"needs ppo\.etpo: null; what it does"):
        tiny_settings({**other, "ppo.etpo": SECTION})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"ppo.etpo": {**SECTION, "form": "published"}}, ["ppo.etpo.form"]),
        ({"ppo.critic.pretraining_iterations": 0}, ["ppo.critic.pretraining_iterations"]),
        # its first values are no noise, but 0
        (
            {"ppo.critic.initial": "sft", "ppo.critic.pretraining_iterations": 0},
            ["ppo.critic.pretraining_iterations"],
        ),
    ],
)
def test_what_makes_etpo_learn_nothing_is_named(changes: dict[str, Any], named: list[str]) -> None:
    found = advice(tiny_settings({**ETPO, **changes}).ppo)
    assert [sentence.split(" ")[0] for sentence in found] == named
