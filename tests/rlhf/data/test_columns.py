"""Columns of other names: two names never share one, and of an object the rest is told."""

import re
from pathlib import Path

import pytest

from rlhf.common.errors import DataError, SettingsError
from rlhf.data.ledger import Ledger
from rlhf.data.load import load_rows
from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Message
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import Rules
from rlhf.data.shapes.table import check_columns

DIALOGUE = Dialogue((Message("user", "Why?"), Message("assistant", "So.")))


def test_two_names_for_one_column_are_refused() -> None:
    message = "data.columns.prompt and data.columns.completion: both name 'x'"
    with pytest.raises(SettingsError, match=re.escape(message)):
        check_columns({"prompt": "x", "system": "y", "completion": "x"})
    with pytest.raises(SettingsError, match=r"role and data\.columns\.content: both name 'x'"):
        check_columns({"role": "x", "content": "x"})
    # a column of rows and a key of messages
    check_columns({"text": "x", "content": "x", "prompt": "a.x", "completion": "a.y"})


@pytest.mark.parametrize(
    ("columns", "row", "unread"),
    [
        ({"prompt": "data.q", "completion": "data.a"}, {"data": {"q": "Why?", "a": "So."}}, ()),
        (
            {"prompt": "data.q"},
            {"data": {"q": "Why?", "id": 7, "by": {"name": "me", "age": None}}, "answer": "So."},
            ("data.by.name", "data.id"),
        ),
        # under a name that is known itself
        (
            {"prompt": "prompt.text"},
            {"prompt": {"text": "Why?", "lang": "en"}, "completion": "So."},
            ("prompt.lang",),
        ),
        ({"prompt": "input.q"}, {"input": {"q": "Why?", "tags": []}, "output": "So."}, ()),
        # a name with a dot in it is one name
        ({"prompt": "data.q"}, {"data.q": "Why?", "completion": "So.", "data": 1}, ("data",)),
    ],
)
def test_what_is_left_of_an_object_is_told(
    columns: dict[str, str], row: dict[str, object], unread: tuple[str, ...]
) -> None:
    parsed = parse_row(row, None, Rules(columns=tuple(columns.items())))
    assert parsed.record == DIALOGUE and parsed.unread == unread


def test_of_columns_one_of_which_is_misspelt_only_that_one_is_at_fault() -> None:
    rules = Rules(columns=(("prompt", "Frage"), ("completion", "antwort")))
    with pytest.raises(BrokenRow) as broken:
        parse_row({"frage": "Why?", "antwort": "So."}, None, rules)
    # the names are those of the file, and the other one was found
    assert broken.value.detail == (
        "columns antwort, frage; data.columns.prompt: 'Frage' is written 'frage' here"
    )
    assert broken.value.mapped == {"completion"}


def test_a_column_that_only_broken_rows_have_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("frage;antwort\nWhy?;So.\n")
    columns = {"prompt": "Frage", "completion": "antwort"}
    ledger = Ledger()
    rules = Rules(columns=tuple(columns.items()))
    assert not [*load_rows(tmp_path, "sft", 0, ledger, "path:a.csv", rules=rules)]
    message = r"data\.columns\.prompt: no row has a column 'Frage'; .*'Frage' is written 'frage'"
    with pytest.raises(DataError, match=message):
        ledger.check_mapped(dict(reversed(columns.items())))
