"""Messages as people write them: lists of OpenAI and ShareGPT, parts, transcripts of HH-RLHF."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from rlhf.data.json_values import check_keys, load_json
from rlhf.data.records import Message, Messages, Role
from rlhf.data.rows import BrokenRow
from rlhf.data.shapes.columns import Columns, RawRow, is_missing

# Names of roles in published data sets.
ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "system",
}
# Turns of programs: there is no place for them in a dialogue of ours.
TOOL_ROLES = frozenset(
    {"tool", "function", "function_call", "function_response", "observation", "ipython"}
)
_TOOL_COLUMNS = ("tool_calls", "function_call")
# Keys that say whether an answer is learnt: OpenAI's, and axolotl's.
_WEIGHTS = ("weight", "train")
_TEXT_PARTS = ("text", "input_text", "output_text")
# A question and its answer in one object, in place of two messages: Capybara's, BELLE's and their like.
_EXCHANGES = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("human", "gpt"))

_LINE_END = r"(?:\r\n|\r(?!\n)|\n)"
_TURN = re.compile(_LINE_END + r"{2}(Human|Assistant):")
# a transcript whose blank beginning was stripped off
_STRIPPED_TURN = re.compile(r"\s*(?:Human|Assistant):")


def read_text(value: Any) -> str:
    """A text, or the texts of a list of parts put together; raises BrokenRow for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        # a part says what it is; of bare texts nobody knows what stands between them
        if len(value) > 1 and any(isinstance(part, str) for part in value):
            raise BrokenRow("wrong_type", f"a list of {len(value)} texts in place of one")
        return "".join(_part(part) for part in value)
    raise BrokenRow("wrong_type", f"{type(value).__name__} in place of text")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise BrokenRow("wrong_type", f"a part that is {type(part).__name__}")
    if part.keys() & {"role", "from"}:
        raise BrokenRow("wrong_type", "messages in place of text; data.columns.messages names them")
    kind, text = part.get("type") or "text", part.get("text")
    if kind not in _TEXT_PARTS:
        raise BrokenRow("not_text", f"a part of type {kind}")
    # null is as absent, here too
    if text is not None and not isinstance(text, str):
        raise BrokenRow("wrong_type", f"a part whose text is {type(text).__name__}")
    return text or ""


def read_dialogue(value: Any, row: Columns) -> Messages:
    """A column of a whole dialogue: messages, a transcript, or the texts of user and assistant in turns."""
    if isinstance(value, str) and is_transcript(value, stripped=True):
        return read_transcript(value)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        roles: tuple[Role, Role] = ("user", "assistant")
        return tuple(Message(roles[place % 2], text) for place, text in enumerate(value))
    return read_messages(value, row)


def read_messages(value: Any, row: Columns) -> Messages:
    """A list of messages, or one message, in either way of writing them."""
    value = from_json(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        value = _turned(value) or [value]
    if not isinstance(value, list):
        wanted = "messages" if isinstance(value, str) else "text or messages"
        raise BrokenRow("wrong_type", f"{type(value).__name__} in place of {wanted}")
    turns = [turn for item in value if not is_missing(item) for turn in _turns(item)]
    messages = [_message(turn, row) for turn in turns]
    # a blank system message says nothing
    return tuple(m for m in messages if m.role != "system" or m.content.strip())


def from_json(text: str) -> Any:
    """What stands in a cell of a table as JSON, a list or an object; other text stays as it is."""
    try:
        found = load_json(text)
    except (ValueError, RecursionError):
        return text
    check_keys(found)
    return found if isinstance(found, list | dict) else text


def _turned(columns: RawRow) -> list[RawRow] | None:
    """Messages whose keys hold a list each, as parquet may have them; None for anything else."""
    lists = [values for values in columns.values() if isinstance(values, list)]
    # one message whose content is a list of parts has a role that is none
    if len(lists) < max(2, len(columns)) or len({len(values) for values in lists}) > 1:
        return None
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _turns(item: Any) -> list[Any]:
    """The two messages of an exchange in one object, the question alone without an answer; else the item."""
    if not isinstance(item, Mapping) or item.keys() & {"role", "from"}:
        return [item]
    for asked, answered in _EXCHANGES:
        if asked in item and answered in item:
            rest = {name: item[name] for name in item if name not in (asked, answered)}
            question = {**rest, "role": "user", "content": item[asked]}
            answer = {"role": "assistant", "content": item[answered]}
            return [question] if is_missing(item[answered]) else [question, answer]
    return [item]


def _message(item: Any, row: Columns) -> Message:
    # what parquet calls a map
    if isinstance(item, list) and all(isinstance(pair, tuple) for pair in item):
        item = dict(item)
    if not isinstance(item, Mapping):
        raise BrokenRow("wrong_type", f"{type(item).__name__} in place of a message")
    message = row.message(item)
    stated = message.first("role", "from")
    if stated is None:
        raise BrokenRow(
            "unknown_role", f"no role beside {', '.join(message.own_names) or 'nothing'}"
        )
    name = str(stated).strip().lower()
    if name in TOOL_ROLES or any(message.get(column) for column in _TOOL_COLUMNS):
        raise BrokenRow("tool_use", "a call of a tool or its answer, which no dialogue here holds")
    role = ROLES.get(name)
    if role is None:
        raise BrokenRow("unknown_role", f"role {name}; known: {', '.join(ROLES)}")

    content = message.first_text("content", "value", "text")
    if content is None and role == "system" and not message.unread():
        # as where parquet gives every row one: it says nothing
        content = ""
    if content is None:
        keys = ", ".join(message.own_names)
        raise BrokenRow("no_content", f"a message of {name} without content; its keys: {keys}")
    is_target = False not in [message.says(column) for column in _WEIGHTS]
    row.lost_in(message)
    return Message(role, read_text(content), is_target)


def is_transcript(text: str, *, stripped: bool = False) -> bool:
    """Whether a text is a transcript of turns.

    stripped: whether the blank lines before the first turn may be missing, if others follow
    """
    begins_stripped = stripped and _STRIPPED_TURN.match(text) and _TURN.search(text)
    return bool(_TURN.match(text) or begins_stripped)


def read_transcript(text: str) -> Messages:
    r"""Split "\n\nHuman: ...\n\nAssistant: ..." into messages; the blank behind a colon is layout.

    Raises BrokenRow. Two turns of one role in a row are refused: one may be a quotation.
    """
    if not _TURN.match(text):
        if not _STRIPPED_TURN.match(text):
            raise BrokenRow("not_a_transcript")
        text = f"\n\n{text.lstrip()}"

    # names and contents alternate behind what stands before the first turn
    _, *parts = _TURN.split(text)
    names, contents = parts[0::2], parts[1::2]
    if any(name == following for name, following in pairwise(names)):
        raise BrokenRow("same_role_twice")
    return tuple(
        Message("user" if name == "Human" else "assistant", content.removeprefix(" "))
        for name, content in zip(names, contents, strict=True)
    )


def in_order(messages: Messages, row: Columns) -> Messages:
    """[system] user assistant user ...; raises BrokenRow for any other order.

    Under `repeated_roles: join` turns of one role in a row become one, and a system message between
    turns is the user's.
    """
    if row.rules.repeated_roles == "join":
        joined = _joined(messages)
        if joined != messages:
            row.changes.add("joined_turns")
        messages = joined

    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise BrokenRow("no_messages")
    if turns[0].role == "assistant":
        raise BrokenRow("assistant_first")
    if turns[0].role == "system":
        raise BrokenRow("system_message_later", f"two system messages in a row; {_ADVICE}")
    if any(message.role == "system" for message in turns):
        raise BrokenRow("system_message_later", _ADVICE)
    if any(message.role == following.role for message, following in pairwise(turns)):
        raise BrokenRow("same_role_twice", _ADVICE)
    return messages


_ADVICE = "data.repeated_roles: join puts such turns together"


def _joined(messages: Messages) -> Messages:
    joined: list[Message] = []
    for message in messages:
        is_later_system = message.role == "system" and any(m.role != "system" for m in joined)
        role: Role = "user" if is_later_system else message.role
        if joined and joined[-1].role == role:
            before = joined.pop()
            is_target = before.is_target and message.is_target
            joined.append(Message(role, f"{before.content}\n\n{message.content}", is_target))
        else:
            joined.append(replace(message, role=role))
    return tuple(joined)
