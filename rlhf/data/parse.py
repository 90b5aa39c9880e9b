"""From a row of any known shape to a record. One parser for every file: the row's keys tell its shape.

pairs          {"chosen", "rejected"} as transcripts ("\\n\\nHuman: ...\\n\\nAssistant: ...") or as lists of messages,
               or as bare answers beside {"messages"} or {"prompt"}
dialogues      {"messages": [{"role", "content"}, ...]}
instructions   {"instruction", "input", "output"}, or with {"instances": [{"input", "output"}]}
prompts        {"prompt"}, {"turns": [...]} (the first turn: the later ones need answers), {"Goal"}
plain text     {"text"}
"""

import re
from collections.abc import Mapping
from typing import Any

from rlhf.data.clean import clean_text
from rlhf.data.read import BrokenRow
from rlhf.data.records import (
    Dialogue,
    Kind,
    Message,
    Messages,
    Pair,
    PlainText,
    Prompt,
    Record,
    Role,
)

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}
_KINDS: Mapping[str, Kind] = {"helpful": "helpful", "harmless": "harmless", "other": "other"}


def parse_row(row: Mapping[str, Any], kind: Kind | None = None) -> tuple[Record, Kind]:
    """Give the record and its kind: the row's own `kind`, else the given one, else what the shape suggests.

    Raises BrokenRow with the reason.
    """
    record, suggested = _parse(row)
    return record, _KINDS.get(str(row.get("kind"))) or kind or suggested


def _parse(row: Mapping[str, Any]) -> tuple[Record, Kind]:
    if "chosen" in row and "rejected" in row:
        return _pair(row), "other"
    if "messages" in row:
        messages = checked(_messages(row["messages"]))
        return (
            Dialogue(messages) if messages[-1].role == "assistant" else Prompt(messages)
        ), "other"
    if "instruction" in row:
        return _instruction(row), "helpful"
    if "turns" in row:
        turns = row["turns"]
        return Prompt(
            checked((_user(turns[0] if isinstance(turns, list) and turns else None),))
        ), "helpful"
    if "Goal" in row:
        return Prompt(checked((_user(row["Goal"]),))), "harmless"
    if "prompt" in row:
        return Prompt(_ending_with_user(checked(_prompt(row["prompt"])))), "other"
    if "text" in row:
        text = clean_text(_text(row["text"]))
        if not text:
            raise BrokenRow("empty_text")
        return PlainText(text), "plain"
    raise BrokenRow("unknown_shape")


def parse_transcript(text: str) -> Messages:
    r"""Split "\n\nHuman: ...\n\nAssistant: ..." into messages.

    Raises BrokenRow("not_a_transcript").
    """
    parts = _TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise BrokenRow("not_a_transcript")
    turns = [
        Message("user" if name == "Human" else "assistant", clean_text(content))
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return tuple(turns)


def checked(messages: Messages) -> Messages:
    """Refuse messages that are empty or do not alternate; raises BrokenRow."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise BrokenRow("no_messages")
    for position, message in enumerate(turns):
        if message.role != ("user", "assistant")[position % 2]:
            raise BrokenRow("roles_out_of_order")
        if not message.content:
            last_answer = message.role == "assistant" and position == len(turns) - 1
            raise BrokenRow("empty_answer" if last_answer else "empty_message")
    return messages


def _ending_with_user(messages: Messages) -> Messages:
    if messages[-1].role != "user":
        raise BrokenRow("not_ending_with_user")
    return messages


def _pair(row: Mapping[str, Any]) -> Pair:
    context = row.get("messages", row.get("prompt"))
    if isinstance(row["chosen"], str) and not _TURN.match(row["chosen"]) and context is not None:
        messages = _ending_with_user(
            checked(_messages(context) if isinstance(context, list) else _prompt(context))
        )
        chosen, rejected = clean_text(row["chosen"]), clean_text(_text(row["rejected"]))
        if not chosen or not rejected:
            raise BrokenRow("empty_answer")
    else:
        before = _messages(context) if isinstance(context, list) else ()
        one, other = (_whole(row[key], before) for key in ("chosen", "rejected"))
        messages, chosen, rejected = one[:-1], one[-1].content, other[-1].content
        if messages != other[:-1]:
            raise BrokenRow("prompts_differ")
    if chosen == rejected:
        raise BrokenRow("chosen_equals_rejected")
    return Pair(messages, chosen, rejected)


def _whole(value: Any, before: Messages) -> Messages:
    """One side of a pair as a dialogue that ends with the assistant; `before` is put in front of bare answers."""
    messages = _messages(value) if isinstance(value, list) else parse_transcript(_text(value))
    if messages and messages[0].role == "assistant":
        messages = before + messages
    if messages and messages[-1].role != "assistant":
        raise BrokenRow("not_ending_with_assistant")
    return checked(messages)


def _prompt(value: Any) -> Messages:
    """A prompt as list of messages, as transcript that ends with an open "Assistant:", or as the user's bare text."""
    if isinstance(value, list):
        return _messages(value)
    text = _text(value)
    if not _TURN.match(text):
        return (_user(text),)
    messages = parse_transcript(text)
    return messages[:-1] if messages[-1] == Message("assistant", "") else messages


def _instruction(row: Mapping[str, Any]) -> Dialogue:
    given = row
    if isinstance(row.get("instances"), list) and row["instances"]:
        given = row["instances"][0]
    if not isinstance(given, Mapping):
        raise BrokenRow("wrong_type")
    instruction, extra = _text(row["instruction"]), _text(given.get("input") or "")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    answer = Message("assistant", clean_text(_text(given.get("output") or "")))
    return Dialogue(checked((_user(question), answer)))


def _messages(value: Any) -> Messages:
    if not isinstance(value, list):
        raise BrokenRow("wrong_type")
    found = []
    for item in value:
        if not isinstance(item, Mapping):
            raise BrokenRow("wrong_type")
        role = _ROLES.get(str(item.get("role", item.get("from"))).lower())
        if role is None:
            raise BrokenRow("unknown_role")
        found.append(Message(role, clean_text(_text(item.get("content", item.get("value"))))))
    return tuple(found)


def _user(value: Any) -> Message:
    return Message("user", clean_text(_text(value)))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BrokenRow("wrong_type")
    return value
