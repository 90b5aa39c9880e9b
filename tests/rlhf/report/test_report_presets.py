from rlhf.common.yaml import parse_yaml
from rlhf.report.presets import SettingChange, nearest_preset
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings


def test_the_nearest_preset_and_what_was_changed(settings: Settings) -> None:
    distance = nearest_preset(settings)
    assert distance.name == "laptop"
    assert distance.changes == [SettingChange("seed", 1, 977)]


def test_an_unchanged_preset() -> None:
    distance = nearest_preset(settings_from(parse_yaml(preset_text("tiny"), "tiny")))
    assert (distance.name, distance.changes) == ("tiny", [])
