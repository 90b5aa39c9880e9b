from rlhf.common.yaml import parse_yaml
from rlhf.report.presets import SettingChange, nearest_preset
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings


def test_the_nearest_preset_and_what_was_changed(settings: Settings) -> None:
    distance = nearest_preset(settings)
    assert distance.name == "laptop"
    assert distance.changes == [SettingChange("seed", 1, 977)]


def test_a_section_that_is_off_is_one_change_however_many_keys_it_has() -> None:
    content = parse_yaml(preset_text("laptop"), "laptop")
    content["gold"], content["data"]["gold_fraction"] = None, 0.0
    content["evaluate"]["judges"] = ["rules"]
    content["ppo"] |= {"ptx": None, "iterations": 7, "rollouts": 64, "mini_batch": 32}
    distance = nearest_preset(settings_from(content))
    assert distance.name == "laptop"
    switches = [change for change in distance.changes if change.is_switch]
    assert [(one.key, one.preset_value, one.run_value) for one in switches] == [
        ("ppo.ptx", "on", "off"),
        ("gold", "on", "off"),
    ]
    assert distance.in_words == (
        "data (gold_fraction), ppo (iterations, rollouts, mini_batch and 1 more), gold off, "
        "evaluate (judges)"
    )


def test_an_unchanged_preset() -> None:
    distance = nearest_preset(settings_from(parse_yaml(preset_text("tiny"), "tiny")))
    assert (distance.name, distance.changes) == ("tiny", [])
