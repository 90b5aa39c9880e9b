"""From a row of any known shape to a record.

One parser serves every file: the keys of a row show its shape.

pairs          {"chosen", "rejected"} as transcripts ("\\n\\nHuman: ...\\n\\nAssistant: ..."), as
               lists of messages, or as bare answers beside {"messages"} or {"prompt"}
solutions      {"steps": [...], "labels": [...]} beside {"messages"} or {"prompt"}; "completions" is
               another name for "steps"
dialogues      {"messages": [{"role", "content"}, ...]}
instructions   {"instruction", "input", "output"}, or with {"instances": [{"input", "output"}]}
prompts        {"prompt"}, {"turns": [...]} (the first turn: the later ones need answers), {"Goal"}
plain text     {"text"}
"""

import re
from collections.abc import Callable, Mapping
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
    Solution,
)

RawRow = Mapping[str, Any]

_TURN = re.compile(r"\n\n(Human|Assistant):")
# Names of roles in published data sets.
_ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}
# Values of the key `kind` of a row.
_KINDS: Mapping[str, Kind] = {"helpful": "helpful", "harmless": "harmless", "other": "other"}


def parse_row(row: RawRow, kind: Kind | None = None) -> tuple[Record, Kind]:
    """The record of a row, and its kind.

    The row's own `kind` comes first, then the one given, then what the shape suggests. Raises
    BrokenRow with the reason.
    """
    record, suggested = _parse_shape(row)
    return record, _KINDS.get(str(row.get("kind"))) or kind or suggested


def _parse_shape(row: RawRow) -> tuple[Record, Kind]:
    if "chosen" in row and "rejected" in row:
        return _pair(row), "other"
    if "labels" in row and ("steps" in row or "completions" in row):
        return _solution(row), "other"
    for key, (parse, suggested) in _SHAPES.items():
        if key in row:
            return parse(row), suggested
    raise BrokenRow("unknown_shape")


def parse_transcript(text: str) -> Messages:
    r"""Split "\n\nHuman: ...\n\nAssistant: ..." into messages.

    Raises BrokenRow("not_a_transcript").
    """
    parts = _TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise BrokenRow("not_a_transcript")

    # names and contents alternate behind what stands before the first turn
    names, contents = parts[1::2], parts[2::2]
    return tuple(
        Message("user" if name == "Human" else "assistant", clean_text(content))
        for name, content in zip(names, contents, strict=True)
    )


def checked(messages: Messages) -> Messages:
    """Refuse messages that are empty or do not alternate; raises BrokenRow."""
    # a system message may stand before the turns
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise BrokenRow("no_messages")

    for position, message in enumerate(turns):
        expected = "user" if position % 2 == 0 else "assistant"
        if message.role != expected:
            raise BrokenRow("roles_out_of_order")
        if not message.content:
            is_last_answer = message.role == "assistant" and position == len(turns) - 1
            raise BrokenRow("empty_answer" if is_last_answer else "empty_message")
    return messages


# -- pairs --


def _pair(row: RawRow) -> Pair:
    context = row.get("messages", row.get("prompt"))
    # Published pairs are two whole dialogues; others give the messages that both share once.
    if context is not None and _is_bare_answer(row["chosen"]):
        pair = _pair_of_answers(row, context)
    else:
        pair = _pair_of_dialogues(row, context)

    if pair.chosen == pair.rejected:
        raise BrokenRow("chosen_equals_rejected")
    return pair


def _is_bare_answer(value: Any) -> bool:
    return isinstance(value, str) and not _TURN.match(value)


def _pair_of_answers(row: RawRow, context: Any) -> Pair:
    messages = _messages_before_answer(context)
    chosen, rejected = _clean(row["chosen"]), _clean(row["rejected"])
    if not chosen or not rejected:
        raise BrokenRow("empty_answer")
    return Pair(messages, chosen, rejected)


def _pair_of_dialogues(row: RawRow, context: Any) -> Pair:
    before = _messages(context) if isinstance(context, list) else ()
    chosen = _dialogue_messages(row["chosen"], before)
    rejected = _dialogue_messages(row["rejected"], before)
    if chosen[:-1] != rejected[:-1]:
        raise BrokenRow("prompts_differ")
    return Pair(chosen[:-1], chosen[-1].content, rejected[-1].content)


def _dialogue_messages(value: Any, before: Messages) -> Messages:
    """One side of a pair as a dialogue that ends with the assistant.

    before: put in front of a side that is an answer alone
    """
    messages = _messages(value) if isinstance(value, list) else parse_transcript(_string(value))
    if messages and messages[0].role == "assistant":
        messages = before + messages
    if messages and messages[-1].role != "assistant":
        raise BrokenRow("not_ending_with_assistant")
    return checked(messages)


# -- solutions --


def _solution(row: RawRow) -> Solution:
    messages = _messages_before_answer(row.get("messages", row.get("prompt")))
    texts, labels = row.get("steps", row.get("completions")), row["labels"]
    finished = row.get("finished", True)
    if not (isinstance(texts, list) and isinstance(labels, list) and isinstance(finished, bool)):
        raise BrokenRow("wrong_type")
    if len(texts) != len(labels):
        raise BrokenRow("labels_are_not_as_many_as_steps")

    steps = tuple(_clean(text) for text in texts)
    if not steps:
        raise BrokenRow("no_steps")
    if not all(steps):
        raise BrokenRow("empty_step")
    solution = Solution(messages, steps, tuple(_label(label) for label in labels), finished)
    if all(label is None for label in solution.labels):
        raise BrokenRow("no_labels")
    return solution


def _label(value: Any) -> float | None:
    """From true, false, a number from 0 to 1, or null for a step without a label."""
    if value is None:
        return None
    # nothing else is taken for true or false: not -100, which elsewhere means no label, and no text
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise BrokenRow("not_a_label")
    return float(value)


# -- all other shapes --


def _dialogue_or_prompt(row: RawRow) -> Dialogue | Prompt:
    messages = checked(_messages(row["messages"]))
    return Dialogue(messages) if messages[-1].role == "assistant" else Prompt(messages)


def _instruction(row: RawRow) -> Dialogue:
    instances = row.get("instances")
    # as in Self-Instruct; the first instance counts
    example = instances[0] if isinstance(instances, list) and instances else row
    if not isinstance(example, Mapping):
        raise BrokenRow("wrong_type")

    question, extra = _string(row["instruction"]), _string(example.get("input") or "")
    if extra.strip():
        question = f"{question}\n\n{extra}"
    answer = Message("assistant", _clean(example.get("output") or ""))
    return Dialogue(checked((_user(question), answer)))


def _first_turn(row: RawRow) -> Prompt:
    turns = row["turns"]
    first = turns[0] if isinstance(turns, list) and turns else None
    return Prompt(checked((_user(first),)))


def _goal(row: RawRow) -> Prompt:
    return Prompt(checked((_user(row["Goal"]),)))


def _prompt(row: RawRow) -> Prompt:
    messages = checked(_prompt_messages(row["prompt"]))
    _check_ends_with_user(messages)
    return Prompt(messages)


def _plain_text(row: RawRow) -> PlainText:
    text = _clean(row["text"])
    if not text:
        raise BrokenRow("empty_text")
    return PlainText(text)


# The first of these keys that a row has decides its shape, and the shape suggests a kind.
_SHAPES: Mapping[str, tuple[Callable[[RawRow], Record], Kind]] = {
    "messages": (_dialogue_or_prompt, "other"),
    "instruction": (_instruction, "helpful"),
    "turns": (_first_turn, "helpful"),
    "Goal": (_goal, "harmless"),
    "prompt": (_prompt, "other"),
    "text": (_plain_text, "plain"),
}


# -- parts of rows --


def _messages_before_answer(value: Any) -> Messages:
    messages = checked(_prompt_messages(value))
    _check_ends_with_user(messages)
    return messages


def _prompt_messages(value: Any) -> Messages:
    """From a list of messages, a transcript with an open "Assistant:", or a user's bare text."""
    if isinstance(value, list):
        return _messages(value)
    text = _string(value)
    if not _TURN.match(text):
        return (_user(text),)

    # an open "Assistant:" is a turn without content
    messages = parse_transcript(text)
    return messages[:-1] if messages[-1] == Message("assistant", "") else messages


def _messages(value: Any) -> Messages:
    if not isinstance(value, list):
        raise BrokenRow("wrong_type")
    return tuple(_message(item) for item in value)


def _message(item: Any) -> Message:
    if not isinstance(item, Mapping):
        raise BrokenRow("wrong_type")
    role = _ROLES.get(str(item.get("role", item.get("from"))).lower())
    if role is None:
        raise BrokenRow("unknown_role")
    return Message(role, _clean(item.get("content", item.get("value"))))


def _check_ends_with_user(messages: Messages) -> None:
    if messages[-1].role != "user":
        raise BrokenRow("not_ending_with_user")


def _user(value: Any) -> Message:
    return Message("user", _clean(value))


def _clean(value: Any) -> str:
    return clean_text(_string(value))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise BrokenRow("wrong_type")
    return value
