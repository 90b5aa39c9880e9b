import pytest

from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_names, preset_text, settings_from
from rlhf.settings.advice import advice
from rlhf.settings.edit import edited
from rlhf.settings.variants import VARIANTS


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_every_preset_is_accepted_and_keeps_its_comments(
    preset: str, variant: str
) -> None:
    text = edited(preset_text(preset), VARIANTS[variant], preset)
    settings_from(parse_yaml(text, "params.yaml"))
    assert text.splitlines()[0] == preset_text(preset).splitlines()[0]


def test_apa_takes_the_place_of_whatever_was_set() -> None:
    others = {
        "ppo.surrogate_clip": None,
        "ppo.penalty": {"coefficient": 1.0, "target": None},
        "ppo.entropy": {"coefficient": 0.1, "target": None},
    }
    text = edited(edited(preset_text("laptop"), others, "laptop"), VARIANTS["apa"], "laptop")
    ppo = settings_from(parse_yaml(text, "laptop")).ppo
    assert (ppo.algorithm, ppo.ptx, ppo.penalty, ppo.entropy) == ("apa", None, None, None)


def test_only_vanilla_is_advised_against() -> None:
    for name, changes in VARIANTS.items():
        found = advice(
            settings_from(
                parse_yaml(edited(preset_text("laptop"), changes, "laptop"), "laptop")
            ).ppo
        )
        assert [sentence.split(":")[0] for sentence in found] == (
            ["ppo.kl is null"] if name == "vanilla" else []
        )
