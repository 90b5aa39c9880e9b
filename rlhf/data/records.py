"""What a row of data is, once its file's shape no longer matters."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
Kind = Literal["helpful", "harmless", "other", "plain"]
PublishedSplit = Literal["train", "test"] | None


@dataclass(frozen=True)
class Message:
    """One turn; `content` is cleaned and not empty."""

    role: Role
    content: str


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
    """Messages that await an answer: they end with the user."""

    messages: Messages


@dataclass(frozen=True)
class PlainText:
    """Text that is no dialogue."""

    text: str


Record = Dialogue | Pair | Prompt | PlainText


@dataclass(frozen=True)
class Row:
    """A record and where it comes from.

    address: index of the address among those of its use; `file` lies below the address's directory, `line` is from 1
    published: the split that the file's publisher put it in
    """

    record: Record
    kind: Kind
    use: str
    address: int
    file: str
    line: int
    published: PublishedSplit


def as_list(messages: Messages) -> list[dict[str, str]]:
    """Give messages in the form that chat templates and JSON take."""
    return [{"role": message.role, "content": message.content} for message in messages]
