"""What stands beside the columns that a shape is known by is used, or told, and never just gone."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.names import kind_from_path
from rlhf.data.parse import parse_row
from rlhf.data.read import read_rows
from rlhf.data.records import Dialogue, Message, Messages, Pair, Prompt
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import Rules

SYSTEM = Message("system", "Be short.")
ASKED, ANSWER, OTHER = (
    Message("user", "Why?"),
    Message("assistant", "So."),
    Message("assistant", "No."),
)
EARLIER = (Message("user", "Hello"), Message("assistant", "Hi"))


def written(*messages: Message) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def whole_pair(*before: Message, **beside: Any) -> dict[str, Any]:
    """A pair of whole dialogues, and columns beside it."""
    sides = {"chosen": written(*before, ANSWER), "rejected": written(*before, OTHER)}
    return sides | beside


# -- beside pairs of whole dialogues ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "before"),
    [
        # said twice
        (whole_pair(ASKED, prompt="Why?"), (ASKED,)),
        (whole_pair(ASKED, prompt=" Why?\n"), (ASKED,)),
        (whole_pair(*EARLIER, ASKED, prompt="Why?"), (*EARLIER, ASKED)),
        (whole_pair(*EARLIER, ASKED, question="Hello"), (*EARLIER, ASKED)),
        (whole_pair(SYSTEM, ASKED, prompt=written(SYSTEM, ASKED)), (SYSTEM, ASKED)),
        # said beside it alone
        (whole_pair(ASKED, prompt=written(SYSTEM, ASKED)), (SYSTEM, ASKED)),
        (whole_pair(ASKED, messages=written(*EARLIER, ASKED)), (*EARLIER, ASKED)),
        (whole_pair(ASKED, prompt="Why?", system="Be short."), (SYSTEM, ASKED)),
        (whole_pair(ASKED, prompt="Why?", history=[["Hello", "Hi"]]), (*EARLIER, ASKED)),
        (whole_pair(ASKED, history=[["Hello", "Hi"]]), (*EARLIER, ASKED)),
        (whole_pair(*EARLIER, ASKED, history=[["Hello", "Hi"]]), (*EARLIER, ASKED)),
    ],
)
def test_what_stands_beside_whole_dialogues_is_in_them_once(
    row: dict[str, Any], before: Messages
) -> None:
    parsed = parse_row(row)
    assert parsed.record == Pair(before, "So.", "No.")
    assert not parsed.unread


@pytest.mark.parametrize(
    ("row", "before", "unread"),
    [
        (whole_pair(ASKED, context="A long document."), (ASKED,), ("context",)),
        (whole_pair(ASKED, instruction="Answer in French."), (ASKED,), ("instruction",)),
        (whole_pair(ASKED, prompt="What?", input="x"), (ASKED,), ("input", "prompt")),
        # as in UltraFeedback, where `messages` is the chosen side
        (whole_pair(ASKED, messages=written(ASKED, ANSWER)), (ASKED,), ("messages",)),
        (whole_pair(SYSTEM, ASKED, system="Be long."), (SYSTEM, ASKED), ("system",)),
        (whole_pair(ASKED, prompt="What?", system="Be short."), (SYSTEM, ASKED), ("prompt",)),
    ],
)
def test_a_question_that_the_dialogues_do_not_hold_is_told(
    row: dict[str, Any], before: Messages, unread: tuple[str, ...]
) -> None:
    parsed = parse_row(row)
    assert parsed.record == Pair(before, "So.", "No.")
    assert parsed.unread == unread


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [False, 0, 0.0, "False", "false", "0", " FALSE "])
def test_an_answer_that_people_did_not_want_is_no_demonstration(label: object) -> None:
    for row in ({"prompt": "Why?", "completion": "So."}, {"messages": written(ASKED, ANSWER)}):
        with pytest.raises(BrokenRow, match="labelled_bad"):
            parse_row({**row, "label": label})
    # a prompt is one all the same
    assert isinstance(parse_row({"messages": written(ASKED), "label": label}).record, Prompt)


@pytest.mark.parametrize(
    ("label", "unread"),
    [
        (True, ()),
        (1, ()),
        ("TRUE", ()),
        ("1", ()),
        (None, ()),
        ("sports", ("label",)),
        (3, ("label",)),
    ],
)
def test_any_other_label_is_read_as_yes_or_told(label: object, unread: tuple[str, ...]) -> None:
    parsed = parse_row({"prompt": "Why?", "completion": "So.", "label": label})
    assert parsed.record == Dialogue((ASKED, ANSWER))
    assert parsed.unread == unread


# -- names and kinds -------------------------------------------------------------------------------


def test_two_columns_may_change_their_names() -> None:
    swapped = Rules(columns=(("completion", "prompt"), ("prompt", "completion")))
    parsed = parse_row({"prompt": "So.", "completion": "Why?"}, rules=swapped)
    assert parsed.record == Dialogue((ASKED, ANSWER))
    sides = Rules(columns=(("chosen", "rejected"), ("rejected", "chosen")))
    parsed = parse_row(whole_pair(ASKED), rules=sides)
    assert parsed.record == Pair((ASKED,), "No.", "So.")


def test_a_column_whose_name_another_one_takes_is_told() -> None:
    rules = Rules(columns=(("completion", "best"),))
    parsed = parse_row({"prompt": "Why?", "completion": "Worst", "best": "So."}, rules=rules)
    assert parsed.record == Dialogue((ASKED, ANSWER))
    assert parsed.unread == ("completion",)


@pytest.mark.parametrize(
    ("kind", "expected", "unread"),
    [
        ("Harmless ", "harmless", ()),
        ("safety", "other", ("kind",)),
        (["helpful"], "other", ("kind",)),
    ],
)
def test_a_kind_is_one_of_ours_or_told(
    kind: object, expected: str, unread: tuple[str, ...]
) -> None:
    parsed = parse_row({"prompt": "Why?", "kind": kind})
    assert (parsed.kind, parsed.unread) == (expected, unread)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("harmless-base/train.jsonl", "harmless"),
        ("data_Helpful.jsonl", "helpful"),
        ("helpful-and-harmless/a.jsonl", "harmless"),
        ("unhelpful/a.jsonl", None),
    ],
)
def test_a_path_tells_a_kind_by_its_word(path: str, kind: str | None) -> None:
    assert kind_from_path(Path(path)) == kind


def test_a_number_of_thousands_of_digits_costs_its_row_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Why?", "id": ' + "9" * 5000 + '}\n{"prompt": "Why?"}\n')
    first, second = (row for _, row, _ in read_rows(file))
    assert isinstance(first, BrokenRow) and first.reason == "not_json"
    assert second == {"prompt": "Why?"}
