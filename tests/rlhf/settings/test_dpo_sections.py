"""The section dpo, the algorithms that read its model, and the values of the variants."""

from typing import Any

import pytest
from neighbours import DPO, DPO_POLICY, PROCESS_MODEL, RTO
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import Settings, preset_names, preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.reads import OPTIONAL_MODELS
from rlhf.settings.variants import VARIANTS
from rlhf.stages import STAGES


def with_dpo(**keys: Any) -> dict[str, Any]:
    return {"dpo": {**DPO["dpo"], **keys}}


def preset(name: str, variant: str) -> Settings:
    return settings_from(parse_yaml(edited(preset_text(name), VARIANTS[variant], name), name))


def test_it_is_off_in_every_preset_and_every_file_has_the_key() -> None:
    for name in preset_names():
        content = parse_yaml(preset_text(name), name)
        assert "dpo" in content and content["dpo"] is None
    del content["dpo"]
    with pytest.raises(SettingsError, match="dpo: missing; the default is null"):
        settings_from(content)


def test_what_was_read_can_be_read_again() -> None:
    for changes in (DPO, RTO, DPO_POLICY):
        settings = tiny_settings(changes)
        assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_dpo(beta=0), "dpo.beta: must be greater than 0"),
        (with_dpo(loss="hinge"), "dpo.loss: must be 'sigmoid' or 'ipo'"),
        (with_dpo(label_smoothing=0.5), "dpo.label_smoothing: must be less than 0.5"),
        (with_dpo(loss="ipo", label_smoothing=0.1), "label_smoothing belongs to loss: sigmoid"),
        (with_dpo(initial="base"), "dpo.initial: unknown key"),
        (with_dpo(min_pairs=200), "dpo: min_pairs 200 is above max_pairs 128"),
        ({**RTO, "dpo": None}, "ppo.algorithm rto reads models/dpo, whose stage is off"),
        ({**DPO_POLICY, "dpo": None}, "ppo.algorithm dpo reads models/dpo, whose stage is off"),
        ({**RTO, "ppo.rto": None}, "algorithm rto needs ppo.rto: {coefficient: 0.05, clamp: 0.05"),
        ({**RTO, "ppo.rto.clamp": 0}, "ppo.rto.clamp: must be greater than 0"),
        ({**RTO, "ppo.rto.coefficient": 0}, "ppo.rto.coefficient: must be greater than 0"),
        ({**RTO, "ppo.rto.beta": 1}, "ppo.rto.beta: unknown key"),
        ({**RTO, "ppo.rto.shaping_only": None}, "ppo.rto.shaping_only: must be a valid boolean"),
        ({"ppo.rto": RTO["ppo.rto"]}, "algorithm ppo-max needs ppo.rto: null"),
        ({**DPO_POLICY, "ppo.surrogate_clip": 0.2}, "algorithm dpo needs ppo.surrogate_clip: null"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    # the constant above is shared, and `changed` sets keys in place
    fresh = {**changes}
    if isinstance(fresh.get("ppo.rto"), dict):
        fresh["ppo.rto"] = dict(fresh["ppo.rto"])
    with pytest.raises(SettingsError) as caught:
        tiny_settings(fresh)
    assert message in str(caught.value)


def test_the_paper_has_no_clamp() -> None:
    settings = tiny_settings({**RTO, "ppo.rto": {**RTO["ppo.rto"], "clamp": None}})
    assert settings.ppo.rto is not None and settings.ppo.rto.clamp is None


@pytest.mark.parametrize("name", preset_names())
def test_a_variant_fills_the_section_with_values_of_the_preset_s_size(name: str) -> None:
    settings = preset(name, "rto")
    assert settings.dpo is not None and settings.ppo.rto is not None
    rates = {
        "hh-7b": 5e-7,
        "hh-small": 5e-5,
        "laptop": 4e-5,
        "study": 2.5e-4,
        "tiny": 1e-4,
        "verifiable": 2.5e-4,
    }
    assert settings.dpo.optimizer.learning_rate == rates[name]
    assert settings.dpo.batch_tokens == settings.reward.batch_tokens
    assert settings.dpo.trainable_layers == settings.reward.trainable_layers
    assert (settings.dpo.beta, settings.dpo.loss) == (0.1, "sigmoid")
    assert preset(name, "dpo").dpo == settings.dpo


def test_a_section_that_is_there_stays() -> None:
    once = edited(preset_text("laptop"), {"dpo": VARIANTS["rto"]["dpo"], "dpo.beta": 0.3}, "once")
    again = settings_from(parse_yaml(edited(once, VARIANTS["rto"], "again"), "again"))
    assert again.dpo is not None and again.dpo.beta == 0.3


def test_each_optional_model_is_written_by_a_stage_that_a_section_of_its_name_switches_on() -> None:
    models = {model for models in OPTIONAL_MODELS.values() for model in models}
    switched_on = {"dpo": RTO, "process": PROCESS_MODEL}
    assert models == switched_on.keys()
    for model in models:
        stage = STAGES[model]
        assert stage.model == stage.optional == stage.name == model
        assert stage.is_off(tiny_settings()) and not stage.is_off(tiny_settings(switched_on[model]))
    assert not STAGES["sft"].is_off(tiny_settings())
