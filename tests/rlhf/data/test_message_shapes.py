"""Messages as people write them: layouts, roles out of order, keys and columns of other names."""

import json

import pytest
from published_rows import BOWLINE, KNOT, SYSTEM, openai, reason_of, sharegpt
from raw_files import transcript

from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Message, Messages, PlainText, Prompt
from rlhf.data.rules import Rules

JOIN = Rules(repeated_roles="join")


def test_messages_as_parquet_may_have_them() -> None:
    """A list under each key, and maps; roles in any spelling."""
    turned = {"from": ["human", "gpt"], "value": [message.content for message in KNOT]}
    assert parse_row({"conversations": turned}).record == Dialogue(KNOT)
    maps = [[("role", " User "), ("content", KNOT[0].content)]]
    assert parse_row({"messages": maps}).record == Prompt(KNOT[:1])
    named = [
        {"from": name, "value": m.content} for name, m in zip(("HUMAN", "AI"), KNOT, strict=True)
    ]
    assert parse_row({"conversations": named}).record == Dialogue(KNOT)
    # lists of parts are no messages
    one = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    assert parse_row({"prompt": one}).record == Prompt((Message("user", "Why?"),))
    for odd in ({"0": "a", "1": "b"}, {"from": ["human"], "value": ["a", "b"]}):
        assert reason_of({"conversations": odd})[0] == "unknown_role"
    assert reason_of({"messages": [{"content": "a"}]}) == ("unknown_role", "no role beside content")


def test_messages_in_a_cell_of_a_table_are_json() -> None:
    for turns in (openai(KNOT), sharegpt(KNOT)):
        assert parse_row({"conversations": json.dumps(turns)}).record == Dialogue(KNOT)
    # elsewhere such text is text
    text = json.dumps(openai(KNOT))
    assert parse_row({"prompt": text}).record == Prompt((Message("user", text),))


# -- roles out of order --------------------------------------------------------------------------

HELLO = (Message("user", "Hello."), Message("user", "Name a fruit."), Message("assistant", "Plum."))
FRENCH = (*KNOT, Message("system", "In French."), *BOWLINE)
GREETING = (Message("assistant", "How can I help?"), *KNOT)


@pytest.mark.parametrize(
    ("messages", "reason", "joined"),
    [
        (HELLO, "same_role_twice", (Message("user", "Hello.\n\nName a fruit."), HELLO[-1])),
        (
            (SYSTEM, *HELLO),
            "same_role_twice",
            (SYSTEM, Message("user", "Hello.\n\nName a fruit."), HELLO[-1]),
        ),
        (
            FRENCH,
            "system_message_later",
            (*KNOT, Message("user", "In French.\n\nAnd a bowline?"), BOWLINE[1]),
        ),
        (GREETING, "assistant_first", None),
    ],
)
def test_roles_out_of_order_are_dropped_or_joined(
    messages: Messages, reason: str, joined: Messages | None
) -> None:
    for row in ({"messages": openai(messages)}, {"conversations": sharegpt(messages)}):
        assert reason_of(row)[0] == reason
        if joined is None:
            assert reason_of(row, JOIN)[0] == reason
        else:
            parsed = parse_row(row, None, JOIN)
            assert parsed.record == Dialogue(joined)
            assert [change.name for change in parsed.changes] == ["joined_turns"]


def test_two_turns_of_one_name_in_a_transcript_are_never_joined() -> None:
    """The second may be a quotation within the first."""
    sides = {name: transcript("Write:") + f"\n\nHuman: x\n\nAssistant: {name}" for name in "ab"}
    row = {"chosen": sides["a"], "rejected": sides["b"]}
    assert reason_of(row)[0] == reason_of(row, JOIN)[0] == "same_role_twice"


def test_a_system_message_in_a_column_and_in_the_messages_is_one() -> None:
    row = {"system": f" {SYSTEM.content}", "messages": openai((SYSTEM, *KNOT))}
    parsed = parse_row(row)
    assert isinstance(parsed.record, Dialogue) and not parsed.unread
    assert [message.role for message in parsed.record.messages] == ["system", "user", "assistant"]
    # two that differ are told as what they are, and the advice holds
    row["system"] = "You are a cook."
    reason, told = reason_of(row)
    assert reason == "system_message_later" and told.startswith(
        "two system messages in a row; data"
    )
    both = Message("system", f"You are a cook.\n\n{SYSTEM.content}")
    assert parse_row(row, None, JOIN).record == Dialogue((both, *KNOT))


def test_an_unknown_role_is_told_with_the_known_ones() -> None:
    _, told = reason_of({"messages": [{"role": "Robot", "content": "x"}]})
    assert told.startswith("role robot; known: human, user, ") and told.endswith("developer")


# -- columns of other names ----------------------------------------------------------------------


def test_columns_can_have_names_of_their_own() -> None:
    rules = Rules(
        columns=(("completion", "data.antwort"), ("prompt", "frage"), ("system", "rolle"))
    )
    row = {"frage": "Warum?", "data": {"antwort": "Darum."}, "rolle": "Sei nett.", "id": 1}
    parsed = parse_row(row, None, rules)
    asked = (Message("system", "Sei nett."), Message("user", "Warum?"))
    assert parsed.record == Dialogue((*asked, Message("assistant", "Darum.")))
    assert parsed.mapped == {"completion", "prompt", "system"}
    assert "id" in parsed.unread
    # a row without them is read as ever
    assert parse_row({"text": "x"}, None, rules).record == PlainText("x")


def test_keys_of_messages_can_have_names_of_their_own() -> None:
    rules = Rules(columns=(("content", "utterance"), ("messages", "dialog"), ("role", "speaker")))
    row = {
        "dialog": [{"speaker": "user", "utterance": "Hi"}, {"speaker": "bot", "utterance": "Ho"}]
    }
    expected = Dialogue((Message("user", "Hi"), Message("assistant", "Ho")))
    assert parse_row(row, None, rules).record == expected
