"""The section lora: where it may stand, what is refused, and the variant that fills it."""

from typing import Any

import pytest
from neighbours import DPO, ETPO, lora
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_names, preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.training import Lora
from rlhf.settings.variants import VARIANTS

STAGES = ("sft", "reward", "gold", "ppo")


def test_it_is_off_in_every_preset_and_older_files_may_lack_it() -> None:
    for name in preset_names():
        content = parse_yaml(preset_text(name), name)
        whole = settings_from(content)
        for stage in STAGES:
            assert content[stage].pop("lora") is None
        assert settings_from(content) == whole


@pytest.mark.parametrize("stage", STAGES)
def test_each_section_that_trains_has_it(stage: str) -> None:
    changes = lora(stage, target_modules=["q_proj"])
    found = getattr(tiny_settings(changes), stage).lora
    assert found == Lora(rank=4, alpha=8.0, dropout=0.0, target_modules=("q_proj",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lora("sft", rank=0), "sft.lora.rank: must be greater than or equal to 1"),
        (lora("sft", alpha=0), "sft.lora.alpha: must be greater than 0"),
        (lora("sft", dropout=1.0), "sft.lora.dropout: must be less than 1"),
        (lora("sft", target_modules=[]), "sft.lora.target_modules: "),
        (lora("sft", layers=[1]), "sft.lora.layers: unknown key; known here: alpha, dropout"),
        ({"reward.lora": {"rank": 8}}, "reward.lora.alpha: missing; the default is 32.0"),
        (lora("ppo", dropout=0.1), "ppo.lora: dropout must be 0 here"),
        ({"dpo": {**DPO["dpo"], "lora": lora("", dropout=0.1)[".lora"]}}, "dropout must be 0 here"),
        ({**ETPO, **lora("ppo")}, "algorithm etpo needs lora: null"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        tiny_settings(changes)
    assert message in str(error.value)


@pytest.mark.parametrize("name", preset_names())
def test_the_variant_puts_adapters_before_the_policy_at_ten_times_the_rate(name: str) -> None:
    before = settings_from(parse_yaml(preset_text(name), name))
    after = settings_from(parse_yaml(edited(preset_text(name), VARIANTS["lora"], name), name))
    for stage in ("sft", "reward", "ppo"):
        section, plain = getattr(after, stage), getattr(before, stage)
        assert section.lora is not None and section.lora.rank == 16
        rates = section.optimizer.learning_rate, plain.optimizer.learning_rate
        assert rates[0] == pytest.approx(10 * rates[1])
        assert section.trainable_layers == plain.trainable_layers
    assert after.ppo.critic is not None and before.ppo.critic is not None
    critic, plain = after.ppo.critic.optimizer, before.ppo.critic.optimizer
    assert critic.learning_rate == pytest.approx(10 * plain.learning_rate)
    # the judge is that of a full run
    assert after.gold == before.gold
