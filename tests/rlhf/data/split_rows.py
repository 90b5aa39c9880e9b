"""Rows for the tests of splits, and the splits that they get."""

from rlhf.data.assign import assign_splits
from rlhf.data.ledger import Ledger
from rlhf.data.records import Kind, Message, Pair, PlainText, PublishedSplit, Record, Row
from rlhf.data.split import candidates
from rlhf.settings.schema import Settings

EMPTY: dict[str, list[Row]] = {
    "sft": [],
    "preferences": [],
    "prompts": [],
    "evaluation": [],
    "pretrain": [],
    "steps": [],
}


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def make_row(
    record: Record,
    use: str,
    published: PublishedSplit = None,
    address: int = 0,
    kind: Kind = "helpful",
) -> Row:
    return Row(record, kind, use, address, f"{published or 'data'}.jsonl", 1, published)


def pair(
    text: str, published: PublishedSplit = None, answer: str = "good", address: int = 0
) -> Row:
    return make_row(Pair(asked(text), answer, "bad"), "preferences", published, address)


def splits(
    table: str, rows: dict[str, list[Row]], settings: Settings, ledger: Ledger | None = None
) -> dict[str, str]:
    given = {**EMPTY, **rows}
    found = candidates(
        table, given, assign_splits(given, settings.data, settings.seed), ledger or Ledger()
    )
    return {
        c.row.record.messages[0].content
        if not isinstance(c.row.record, PlainText)
        else c.row.record.text: c.split
        for c in found
    }
