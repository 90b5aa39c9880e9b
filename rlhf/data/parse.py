"""From a row of any known shape to a record: what was written, cleaned as the settings say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.clean import Change, clean
from rlhf.data.records import (
    Dialogue,
    Kind,
    Messages,
    Pair,
    PlainText,
    Record,
    Solution,
    with_texts,
)
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import AS_PUBLISHED, Rules
from rlhf.data.shapes.columns import Columns, RawRow, spelt_otherwise
from rlhf.data.shapes.table import shape_of

# Values of the column `kind` of a row.
_KINDS: Mapping[str, Kind] = {"helpful": "helpful", "harmless": "harmless", "other": "other"}
# Faults of what stands in the column that was read last.
_OF_ONE_COLUMN = ("wrong_type", "not_text", "unknown_role", "no_content")


@dataclass(frozen=True)
class Parsed:
    """A record, and what its row lost on the way.

    shape: the columns that the row was recognised by
    unread: columns that hold something and that its shape does not read
    unread_texts: those of them that hold several words, and may be what the row lacks
    reference: the right answer, as the row has it; a prompt takes it along
    mapped: known names that `data.columns` gave to columns of the row
    """

    record: Record
    kind: Kind
    reference: Any = field(default=None, compare=False)
    shape: str = field(default="", compare=False)
    changes: tuple[Change, ...] = field(default=(), compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)
    mapped: frozenset[str] = field(default=frozenset(), compare=False)
    unread_texts: tuple[str, ...] = field(default=(), compare=False)


def parse_row(row: RawRow, kind: Kind | None = None, rules: Rules = AS_PUBLISHED) -> Parsed:
    """The record of a row, and its kind.

    The row's own `kind` comes first, then the one given, then what the shape suggests. Raises
    BrokenRow with the reason.
    """
    columns = Columns(row, rules)
    try:
        return _parsed(columns, kind, rules)
    except BrokenRow as broken:
        raise BrokenRow(broken.reason, broken.detail, frozenset(columns.mapped)) from None


def _parsed(columns: Columns, kind: Kind | None, rules: Rules) -> Parsed:
    own_kind = _own_kind(columns)

    # 1. what the row says
    shape = shape_of(columns)
    if shape is None:
        found = ", ".join(columns.own_names) or "none"
        told = spelt_otherwise(dict(rules.columns), columns.own_names) or "data.columns maps them"
        raise BrokenRow("unknown_shape", f"columns {found}; {told}")
    try:
        written = shape.record(columns)
    except BrokenRow as broken:
        named = columns.last_read if broken.reason in _OF_ONE_COLUMN else ""
        raise BrokenRow(
            broken.reason, f"{named}: {broken.detail}" if named else broken.detail
        ) from None
    reference = columns.get("reference")

    # 2. what of it is usable
    # the first of each kind: rows are counted, not places
    changes = {name: Change(name, "", "") for name in sorted(columns.changes)}

    def cleaned(text: str) -> str:
        text, made = clean(text, rules.cleaning)
        for change in made:
            changes.setdefault(change.name, change)
        return text

    record = with_texts(written, cleaned)
    check_record(record)
    kind = own_kind or kind or shape.kind
    mapped = frozenset(columns.mapped)
    shown = ", ".join(shape.columns_of(columns))
    unread = tuple(columns.unread())
    texts = tuple(name for name in unread if _is_prose(columns.peek(name)))
    return Parsed(record, kind, reference, shown, tuple(changes.values()), unread, mapped, texts)


def _is_prose(value: Any) -> bool:
    # an id or the name of a source is one word
    return isinstance(value, str) and len(value.split()) > 1


def _own_kind(columns: Columns) -> Kind | None:
    """What the row says; any other value of `kind` is not read, which is told."""
    kind = _KINDS.get(str(columns.peek("kind")).strip().lower())
    if kind is not None:
        columns.get("kind")
    return kind


def check_record(record: Record) -> None:
    """Refuse what says nothing; raises BrokenRow."""
    match record:
        case PlainText(text):
            _refuse_blank("empty_text", text)
        case Dialogue(messages):
            _check_messages(messages[:-1])
            _refuse_blank("empty_answer", messages[-1].content)
        case Pair(messages, chosen, rejected):
            _check_messages(messages)
            _refuse_blank("empty_answer", chosen, rejected)
            if chosen.strip() == rejected.strip():
                raise BrokenRow("chosen_equals_rejected")
        case Solution(messages, steps):
            _check_messages(messages)
            _refuse_blank("empty_step", *steps)
        case _:
            _check_messages(record.messages)


def _check_messages(messages: Messages) -> None:
    _refuse_blank("empty_message", *(message.content for message in messages))


def _refuse_blank(reason: str, *texts: str) -> None:
    if not all(text.strip() for text in texts):
        raise BrokenRow(reason)
