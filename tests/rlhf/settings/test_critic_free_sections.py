"""Which settings go together with rloo, grpo and reinforce-pp, and which are refused by name."""

from collections.abc import Mapping
from typing import Any

import pytest
from neighbours import GRPO, REINFORCE_PP, RLOO
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_names, preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.neighbours import GrpoSettings
from rlhf.settings.variants import VARIANTS

CRITIC_FREE: Mapping[str, Mapping[str, Any]] = {
    "rloo": RLOO,
    "grpo": GRPO,
    "reinforce-pp": REINFORCE_PP,
}
SECTION = {"kl_coefficient": 0.04, "scale": "group", "loss": "token"}
NORMALISED = {"normalise": "running", "scale": None, "clip": 5.0}
SCALED = {"normalise": None, "scale": "running", "clip": None}
WHITENED = {"normalise": "mini-batch", "clip": None}
CRITIC = {
    "initial": "sft",
    "pretraining_iterations": 0,
    "pretraining_epochs": 1,
    "optimizer": {
        "learning_rate": 1e-3,
        "warmup_fraction": 0.0,
        "decay": "constant",
        "final_fraction": 1.0,
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_gradient_norm": 1.0,
    },
}


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_what_was_read_can_be_read_again(name: str) -> None:
    settings = tiny_settings(CRITIC_FREE[name])
    assert settings.ppo.algorithm == name
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


def test_the_defaults_of_a_section_are_the_vetted_ones() -> None:
    grpo = tiny_settings({**GRPO, "ppo.grpo": SECTION}).ppo.grpo
    assert grpo is not None and grpo.model_dump() == SECTION
    assert GrpoSettings() == grpo


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRITIC_FREE)
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"ppo.critic": CRITIC}, "ppo.critic: null"),
        ({"ppo.gae": {"gamma": 1.0, "lambda": 0.95}}, "ppo.gae: null"),
        ({"ppo.value_clip": 0.2}, "ppo.value_clip: null"),
        ({"ppo.penalty": {"coefficient": 1.0, "target": None}, "ppo.surrogate_clip": None}, "ppo.penalty: null"),
        ({"ppo.entropy": {"coefficient": 0.1, "target": None}}, "ppo.entropy: null"),
        ({"ppo.ptx": {"coefficient": 0.1, "windows": 1}}, "ppo.ptx: null"),
        ({"ppo.importance": "reference"}, "ppo.importance: policy"),
        ({"ppo.apa": {"lambda": 0.1}}, "ppo.apa: null"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_means_nothing_to_them_is_refused(
    name: str, changes: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**CRITIC_FREE[name], **changes})
    assert f"algorithm {name} needs {wanted}; what it does not read must be off" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (GRPO, {"ppo.kl": {"coefficient": 0.05, "estimator": "k1"}}, "grpo needs ppo.kl: null"),
        (GRPO, {"ppo.grpo": None}, "grpo needs ppo.grpo: {kl_coefficient: 0.04, scale: group, loss: token}"),
        (GRPO, {"ppo.responses": 1}, "grpo needs ppo.responses: 2 or more"),
        (RLOO, {"ppo.responses": 1}, "rloo needs ppo.responses: 2 or more"),
        (RLOO, {"ppo.grpo": SECTION}, "rloo needs ppo.grpo: null"),
        (RLOO, {"ppo.reinforce_pp": {"baseline": None}}, "rloo needs ppo.reinforce_pp: null"),
        (RLOO, {"ppo.responses": 3}, "mini_batch 4 is not a multiple of responses 3"),
        (GRPO, {"ppo.grpo": {**SECTION, "kl_coefficient": -0.1}}, "ppo.grpo.kl_coefficient: must be greater than or equal to 0"),
        (GRPO, {"ppo.grpo": {**SECTION, "scale": "std"}}, "ppo.grpo.scale: must be 'group' or 'batch'"),
        (GRPO, {"ppo.grpo": {**SECTION, "loss": "mean"}}, "ppo.grpo.loss: must be 'token' or 'sequence'"),
        (REINFORCE_PP, {"ppo.advantage": WHITENED}, "of the whole rollout: advantage.normalise must be null"),
        (REINFORCE_PP, {"ppo.reinforce_pp": {"baseline": "group"}}, "to a prompt: responses must be 2 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    base: Mapping[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({**base, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize("reward", [NORMALISED, SCALED])
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_grpo_rescales_scores_once(reward: dict[str, Any], scale: str) -> None:
    section = {**SECTION, "scale": scale}
    with pytest.raises(SettingsError, match=rf"grpo\.scale {scale} divides .* must be null"):
        tiny_settings({**GRPO, "ppo.grpo": section, "ppo.reward": reward})
    # without a scale of its own, scores may be brought to unit scale; rloo has none
    unscaled = {**GRPO, "ppo.grpo": {**section, "scale": None}}
    assert tiny_settings({**unscaled, "ppo.reward": reward}).ppo.reward.rescales
    assert tiny_settings({**RLOO, "ppo.reward": reward}).ppo.reward.rescales


def test_the_name_alone_is_refused_with_all_that_must_go_with_it() -> None:
    """As `dvc exp run -S ppo.algorithm=rloo` would have it."""
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.algorithm": "rloo"})
    assert str(caught.value) == (
        "settings: ppo: algorithm rloo needs ppo.critic: null, ppo.gae: null, ppo.ptx: null, "
        "ppo.value_clip: null, ppo.responses: 2 or more; what it does not read must be off"
    )


# -- variants -----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize(
    ("variant", "responses"), [("rloo", 4), ("grpo", 4), ("reinforce-pp", 1), ("awr", 1)]
)
def test_a_variant_changes_what_it_must_and_no_more(
    preset: str, variant: str, responses: int
) -> None:
    before = settings_from(parse_yaml(preset_text(preset), preset))
    text = edited(preset_text(preset), VARIANTS[variant], preset)
    after = settings_from(parse_yaml(text, preset))
    ppo = after.ppo
    assert ppo.responses == responses
    # every process has whole groups of every mini-batch
    assert ppo.mini_batch % (responses * after.engine.processes) == 0
    # an iteration costs what it did
    assert (ppo.rollouts, ppo.mini_batch) == (before.ppo.rollouts, before.ppo.mini_batch)
    assert after.model_copy(update={"ppo": before.ppo}) == before
    # sections of other neighbours are not written
    sections = {"apa", "grpo", "reinforce_pp"} - {variant, "apa"}
    assert not sections & parse_yaml(text, preset)["ppo"].keys()
