"""One reading of YAML: DVC's."""

from io import StringIO
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml as read_as_dvc
from ruamel.yaml import YAML

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import editable, edited_text, parse_yaml, write_yaml
from rlhf.settings import preset_names, preset_text

# The same text under YAML 1.1, as PyYAML has it: 8, False, 750, "1e-4", "0o10", True.
ONE_READING = {
    "010": 10,
    "off": "off",
    "12:30": "12:30",
    "1e-4": 0.0001,
    "0o10": 8,
    "yes": "yes",
    "0x1F": 31,
    "~": None,
    "true": True,
    "1.5": 1.5,
}


@pytest.mark.parametrize(("text", "value"), ONE_READING.items())
def test_a_value_is_what_dvc_takes_it_for(text: str, value: Any) -> None:
    line = f"key: {text}\n"
    assert parse_yaml(line, "x") == read_as_dvc(line, "x") == {"key": value}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_what_dvc_takes_it_for(name: str) -> None:
    assert parse_yaml(preset_text(name), name) == read_as_dvc(preset_text(name), name)


def test_what_is_written_is_read_back() -> None:
    content = {"a": list(ONE_READING), "b": {"c": None, "d": ""}, "e": "two\nlines", "f": "x" * 300}
    assert parse_yaml(write_yaml(content), "x") == content == read_as_dvc(write_yaml(content), "x")


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a:\n  b: {c: 1, c: 2}\n"])
def test_a_second_key_is_refused_with_its_line_and_without_its_value(text: str) -> None:
    with pytest.raises(SettingsError, match=r"x:2:\d+: not readable as YAML: \w: a second time$"):
        parse_yaml(text, "x")


def test_a_changed_document_keeps_its_comments_and_order() -> None:
    text = "# what it is\nb: 1 # a remark\na: 'x'\n"
    document = editable(text)
    document["b"] = None
    assert edited_text(document) == text.replace("b: 1", "b: null")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [b", "did not find expected ',' or ']'"),
        ("a: *s3cret\n", "found undefined alias"),
        ("a: !s3cret b\n", "could not determine a constructor for the tag '...'"),
    ],
)
def test_a_problem_keeps_the_parsers_words_and_hides_what_was_written(
    text: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_yaml(text, "x")
    assert problem in str(caught.value) and "s3cret" not in str(caught.value)


def test_other_users_of_the_library_write_null_in_their_own_way() -> None:
    assert write_yaml({"a": {"b": None}}) == "a:\n  b: null\n"
    out = StringIO()
    YAML().dump({"a": {"b": None}}, out)
    assert out.getvalue() == "a:\n  b:\n"
