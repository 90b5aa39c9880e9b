import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited


def test_a_limit_is_named_as_the_file_names_it() -> None:
    """Its own name has a dot in it."""
    text = edited(preset_text("study"), {"data.limits.preferences.train": 1000}, "study")
    limits = settings_from(parse_yaml(text, "study")).data.limits
    before = settings_from(parse_yaml(preset_text("study"), "study")).data.limits
    assert limits == before | {"preferences.train": 1000}
    # laptop has none
    text = edited(preset_text("laptop"), {"data.limits.sft.train": 7}, "laptop")
    assert settings_from(parse_yaml(text, "laptop")).data.limits == {"sft.train": 7}


def test_a_section_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="there is no section 'critics'"):
        edited(preset_text("tiny"), {"ppo.critics.initial": "sft"}, "tiny")
