"""Messages as people write them: layouts, roles out of order, keys and columns of other names."""

import json

import pytest
from published_rows import BOWLINE, KNOT, SYSTEM, openai, reason_of, sharegpt
from raw_files import transcript

from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Message, Messages, Pair, PlainText, Prompt
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
    assert reason_of({"messages": [{"content": "a"}]}) == (
        "unknown_role",
        "messages: no role beside content",
    )


def test_messages_in_a_cell_of_a_table_are_json() -> None:
    for turns in (openai(KNOT), sharegpt(KNOT)):
        assert parse_row({"conversations": json.dumps(turns)}).record == Dialogue(KNOT)
    # elsewhere such text is text
    text = json.dumps(openai(KNOT))
    assert parse_row({"prompt": text}).record == Prompt((Message("user", text),))


def test_an_exchange_in_one_object_is_two_messages() -> None:
    """As Capybara, BELLE and others of their kind have it."""
    for names in (("input", "output"), ("human", "assistant"), ("human", "gpt")):
        exchanges = [
            dict(zip(names, (asked.content, answer.content), strict=True))
            for asked, answer in (KNOT, BOWLINE)
        ]
        row = {"conversation": exchanges}
        assert parse_row(row).record == Dialogue((*KNOT, *BOWLINE))
        assert parse_row({**row, "system": SYSTEM.content}).record == Dialogue(
            (SYSTEM, *KNOT, *BOWLINE)
        )
        # it may await its answer; what else it holds is told
        exchanges[1] |= {names[1]: None, "rating": 5}
        parsed = parse_row(row)
        assert parsed.record == Prompt((*KNOT, BOWLINE[0]))
        assert parsed.unread == ("message.rating",)
    # beside a pair of whole dialogues they are said twice, and told
    pair = {"chosen": openai(KNOT), "rejected": openai((KNOT[0], Message("assistant", "Soup.")))}
    parsed = parse_row({**pair, "conversation": [{"input": KNOT[0].content, "output": "Other."}]})
    assert parsed.record == Pair(KNOT[:1], KNOT[1].content, "Soup.")
    assert parsed.unread == ("conversation",)


def test_a_dialogue_may_be_texts_in_turns_or_a_transcript() -> None:
    """As LIMA's, and as HH's in a column of another name."""
    texts = [message.content for message in (*KNOT, *BOWLINE)]
    assert parse_row({"conversations": texts}).record == Dialogue((*KNOT, *BOWLINE))
    assert parse_row({"conversations": texts[:1]}).record == Prompt(KNOT[:1])
    mapped = Rules(columns=(("messages", "transcript"),))
    for text in (transcript(*texts), transcript(*texts).strip()):
        assert parse_row({"transcript": text}, None, mapped).record == Dialogue((*KNOT, *BOWLINE))


def test_history_in_a_cell_of_a_table_is_json() -> None:
    row = {"instruction": BOWLINE[0].content, "input": "", "output": BOWLINE[1].content}
    pairs = json.dumps([[message.content for message in KNOT]])
    assert parse_row({**row, "history": pairs}).record == Dialogue((*KNOT, *BOWLINE))
    assert parse_row({**row, "history": "[]"}).record == Dialogue(BOWLINE)
    reason, told = reason_of({**row, "history": "[('a', 'b')]"})
    assert (reason, told) == ("wrong_type", "history: str in place of a list")


def test_what_is_null_all_through_is_as_absent() -> None:
    """Parquet gives every row all the fields of an object."""
    nothing = {"role": None, "content": None}
    row = {
        "messages": [*openai(KNOT), nothing, None],
        "chosen": nothing,
        "meta": {"a": {"b": None}},
    }
    parsed = parse_row(row)
    assert parsed.record == Dialogue(KNOT) and not parsed.unread


def test_a_number_of_turns_hides_no_question() -> None:
    """As in Nectar."""
    answers = [{"answer": "For tying.", "rank": 1}]
    row = {"prompt": transcript(KNOT[0].content) + "\n\nAssistant: ", "turns": 1}
    parsed = parse_row({**row, "answers": answers})
    assert parsed.record == Prompt(KNOT[:1]) and parsed.unread == ("answers", "turns")
    assert parse_row({"question": "Why?", "answer": "So.", "turns": 2}).record == Dialogue(
        (Message("user", "Why?"), Message("assistant", "So."))
    )


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


@pytest.mark.parametrize("names", [("role", "content"), ("from", "value")])
def test_a_system_message_that_is_null_is_none(names: tuple[str, str]) -> None:
    """As parquet unifies rows: each has the message, few have its text."""
    role, content = names
    empty, kept = {role: "system", content: None, "name": None}, openai(KNOT)
    assert parse_row({"messages": [empty, *kept]}).record == Dialogue(KNOT)
    sides = {"chosen": "So.", "rejected": "No."}
    assert parse_row({"prompt": [empty, kept[0]], **sides}).record == Pair(KNOT[:1], "So.", "No.")
    # its text under a name that nobody knows is no null
    other = {**empty, "instructions": "Be kind."}
    assert reason_of({"messages": [other, *kept]})[0] == "no_content"


def test_an_unknown_role_is_told_with_the_known_ones() -> None:
    _, told = reason_of({"messages": [{"role": "Robot", "content": "x"}]})
    assert told.startswith("messages: role robot; known: human, user, ") and told.endswith(
        "developer"
    )


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
