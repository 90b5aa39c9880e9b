"""What a row of data is, once the shape of its file no longer matters."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

Role = Literal["system", "user", "assistant"]
Kind = Literal["helpful", "harmless", "other", "plain"]
PublishedSplit = Literal["train", "validation", "test"] | None


@dataclass(frozen=True)
class Message:
    """One turn; `content` is what was written, and not blank.

    is_target: whether an answer of the assistant's is learnt; no part of what was said
    """

    role: Role
    content: str
    is_target: bool = field(default=True, compare=False)


# A tuple, so that records can be compared and hashed.
Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Dialogue:
    """A demonstration: [system] user (assistant user)* assistant."""

    messages: Messages


@dataclass(frozen=True)
class Pair:
    """Two answers to the same messages, which end with the user; people preferred `chosen`."""

    messages: Messages
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Prompt:
    """Messages that await an answer: they end with the user.

    reference: the right answer, where one is known; rewards compare with it
    """

    messages: Messages
    reference: str | None = None


@dataclass(frozen=True)
class Solution:
    """An answer in steps, whose labels say how right each is: 1 right, 0 wrong, None not labelled.

    finished: whether the last step ends the answer; one that was labelled up to its first error only
        may stop in the middle
    """

    messages: Messages
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    finished: bool = True


@dataclass(frozen=True)
class PlainText:
    """Text that is no dialogue."""

    text: str


Record = Dialogue | Pair | Prompt | Solution | PlainText


def with_texts(record: Record, change: Callable[[str], str]) -> Record:
    """The record with each of its texts as `change` makes it."""
    if isinstance(record, PlainText):
        return PlainText(change(record.text))

    messages = tuple(replace(m, content=change(m.content)) for m in record.messages)
    if isinstance(record, Pair):
        return Pair(messages, change(record.chosen), change(record.rejected))
    if isinstance(record, Solution):
        return replace(record, messages=messages, steps=tuple(map(change, record.steps)))
    return replace(record, messages=messages)


@dataclass(frozen=True)
class RowLocation:
    """Where a row stands: the use that its file was fetched for, the file, and the line from 1."""

    use: str
    file: str
    line: int


@dataclass(frozen=True)
class Row:
    """A record and where it comes from.

    address_index: index of the address among those of the use
    file: below the directory of the address; line: from 1
    published_split: the split that the publisher of the file put it in
    """

    record: Record
    kind: Kind
    use: str
    address_index: int
    file: str
    line: int
    published_split: PublishedSplit

    @property
    def location(self) -> RowLocation:
        """The place that messages and counts name."""
        return RowLocation(self.use, self.file, self.line)


def as_list(messages: Messages) -> list[dict[str, str]]:
    """Messages in the form that chat templates and JSON take."""
    return [{"role": message.role, "content": message.content} for message in messages]
