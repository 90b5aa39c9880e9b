"""Which settings go together with process supervision, and which are refused by name."""

from typing import Any

import pytest
from neighbours import PROCESS, PROCESS_MODEL
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.variants import VARIANTS


def test_its_section_is_read() -> None:
    section = {"rule": "difference", "coefficient": 0.5, "score_coefficient": 1.0}
    settings = tiny_settings({**PROCESS, "ppo.process": section})
    assert settings.ppo.process is not None and settings.ppo.process.rule == "difference"
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ppo.process": None},
            "algorithm process needs ppo.process: "
            "{rule: sum, coefficient: 1.0, score_coefficient: 0.0}",
        ),
        ({"ppo.process": {"rule": "mean"}}, "ppo.process.rule: must be 'sum' or 'difference'"),
        ({"ppo.process": {"coefficient": 0.0}}, "ppo.process.coefficient: must be greater than 0"),
        (
            {"ppo.process": {"score_coefficient": -1.0}},
            "ppo.process.score_coefficient: must be greater than or equal to 0",
        ),
        ({"ppo.apa": {"lambda": 0.1}}, "algorithm process needs ppo.apa: null"),
        ({"ppo.critic": None}, "a section ppo.critic"),
        ({"process": None}, "ppo.algorithm process reads models/process, whose stage is off"),
        ({"data.steps": []}, "the section process trains on the answers in steps of data.steps"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**PROCESS, **changes})
    assert message in str(caught.value)


def test_a_model_may_be_trained_without_being_paid_by() -> None:
    """To rank the best of n, say."""
    settings = tiny_settings(PROCESS_MODEL)
    assert settings.process is not None and settings.ppo.algorithm == "ppo-max"
    with pytest.raises(SettingsError, match=r"algorithm ppo-max needs ppo\.process: null"):
        tiny_settings({**PROCESS_MODEL, "ppo.process": {"rule": "sum"}})


@pytest.mark.parametrize("name", ["tiny", "laptop"])
def test_the_variant_takes_its_size_from_the_reward_model(name: str) -> None:
    text = edited(preset_text(name), VARIANTS["process"], name)
    settings = settings_from(parse_yaml(text, name))
    assert settings.process is not None
    assert settings.process.optimizer == settings.reward.optimizer
    assert settings.process.batch_tokens == settings.reward.batch_tokens
    # whose data are the user's own
    assert settings.data.steps == ("path:${RLHF_STEPS}",)
    own = edited(edited(text, {"data.steps": ["path:x"], "process.epochs": 7.0}, name), {}, name)
    again = settings_from(parse_yaml(edited(own, VARIANTS["process"], name), name))
    assert again.data.steps == ("path:x",)
    assert again.process is not None and again.process.epochs == 7.0
