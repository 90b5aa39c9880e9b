"""Presets: one base and readable differences, written out whole."""

import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import editable, edited_text, parse_yaml
from rlhf.settings import load_settings, preset_names, preset_text, settings_from
from rlhf.settings.presets import merge, preset_about
from tests.source_tree import ROOT


def test_the_committed_settings_are_the_default_preset() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == preset_text("laptop")
    load_settings(ROOT / "params.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_whole_file_headed_by_what_it_is(name: str) -> None:
    text = preset_text(name)
    settings_from(parse_yaml(text, name))
    head = " ".join(line.lstrip("# ") for line in text.split("\nseed:")[0].splitlines())
    assert head == preset_about(name) != ""


@pytest.mark.parametrize("name", preset_names())
def test_an_optimiser_has_a_line_for_each_key(name: str) -> None:
    """So that a changed rate shows in a diff."""
    lines = [line.strip() for line in preset_text(name).splitlines()]
    assert sum(line.startswith("learning_rate: ") for line in lines) == 5


def test_a_base_is_no_preset() -> None:
    assert "base" not in preset_names()
    with pytest.raises(SettingsError, match="no preset 'base'; there are: hh-7b, hh-small"):
        preset_text("base")


def test_changes_are_merged_with_their_comments() -> None:
    document = editable(
        "a: # the section\n"
        "  b: 1 # kept with the key\n"
        "  c: 2 # of this value\n"
        "  d: {e: 1, f: 2}\n"
        "  g: {} # empty\n"
        "h: 3\n"
    )
    merge(document, editable("a:\n  b: 9\n  c: 8 # of that value\n  d: {e: 5}\n  g:\n    x.y: 1\n"))
    assert edited_text(document) == (
        "a: # the section\n"
        "  b: 9 # kept with the key\n"
        "  c: 8 # of that value\n"
        "  d: {e: 5, f: 2}\n"
        "  g:    # empty\n"
        "    x.y: 1\n"
        "h: 3\n"
    )


LATER = ("rewards", "apa")


# the rewards of the other one joined later
@pytest.mark.parametrize("name", [name for name in preset_names() if name != "verifiable"])
def test_a_file_from_before_some_keys_joined_still_loads_and_means_the_same(name: str) -> None:
    content = parse_yaml(preset_text(name), name)
    whole = settings_from(content)
    for key in LATER:
        del content["ppo"][key]
    for key in ("sampler", "importance_cap", "vllm"):
        del content["ppo"]["sampling"][key]
    del content["hosts"]
    del content["mlflow"]
    del content["evaluate"]["gold"]
    assert settings_from(content) == whole
