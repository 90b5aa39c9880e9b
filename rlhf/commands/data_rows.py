"""Rows of data as the model reads them: the tokens of `prepare`, decoded, with what is trained on marked."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from rlhf.core.tokenizers import read_tokenizer
from rlhf.data.encode import EncodedRow, TableEncoder, record_of
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Record, Row, Solution
from rlhf.data.solutions import SolutionEncoder
from rlhf.data.split import Candidate, opening_of_row, record_id
from rlhf.data.tokens import ChatEncoder
from rlhf.settings.schema import Data


@dataclass(frozen=True)
class Passage:
    """A text in parts, each with whether it is trained on."""

    title: str
    parts: tuple[tuple[str, bool], ...]


class RowEncoder:
    """Encodes rows of any kind as `prepare` encodes those of the table that takes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data: Data) -> None:
        self._tokenizer = tokenizer
        chat = ChatEncoder(tokenizer, data.max_prompt_tokens, data.max_response_tokens)
        self._table = TableEncoder(chat, data)
        self._encoders: dict[str, Callable[[Sequence[Candidate]], list[EncodedRow | str]]] = {
            "sft": self._table.sft,
            "preferences": self._table.preferences,
            "prompts": self._table.prompts,
            "steps": lambda rows: SolutionEncoder(self._table)(rows),
            "pretrain": self._texts,
        }

    @classmethod
    def load(cls, data: Data, base: Path) -> Self | None:
        """With the tokenizer and the template of the base model; None before it was fetched."""
        if not (base / "tokenizer_config.json").is_file():
            return None
        return cls(read_tokenizer(base), data)

    def __call__(self, rows: Sequence[Row]) -> list[EncodedRow | str]:
        """A row of its table, or why there is none, for each row in their order."""
        # one record is encoded once, though several lists have it
        by_table: defaultdict[str, dict[Record, Row]] = defaultdict(dict)
        for row in rows:
            by_table[table_of(row.use)].setdefault(row.record, row)
        results: dict[tuple[str, Record], EncodedRow | str] = {}
        for table, found in by_table.items():
            encoded = self._encoders[table]([_candidate(row) for row in found.values()])
            results |= {
                (table, record): result for record, result in zip(found, encoded, strict=True)
            }
        return [results[table_of(row.use), row.record] for row in rows]

    def _texts(self, rows: Sequence[Candidate]) -> list[EncodedRow | str]:
        texts = [record_of(candidate, PlainText).text for candidate in rows]
        return [EncodedRow({"input_ids": ids}) for ids in self._table.encoder.texts(texts)]

    def passages(self, row: Row, encoded: EncodedRow) -> tuple[Passage, ...]:
        """What a row of a table says, by its tokens."""
        columns: dict[str, Any] = dict(encoded.columns)
        if row.use == "sft":
            return (self._passage("dialogue", columns["input_ids"], columns["loss_mask"]),)
        if row.use == "pretrain":
            ids = columns["input_ids"]
            return (self._passage("text", ids, [True] * len(ids)),)

        prompt = columns["prompt_ids"]
        answers = [name for name in ("chosen", "rejected", "response") if f"{name}_ids" in columns]
        if not answers:
            return (self._passage("prompt", prompt, [False] * len(prompt)),)
        return tuple(
            self._passage(
                name,
                [*prompt, *columns[f"{name}_ids"]],
                [False] * len(prompt) + [True] * len(columns[f"{name}_ids"]),
            )
            for name in answers
        )

    def _passage(self, title: str, ids: Sequence[int], trained: Sequence[bool]) -> Passage:
        parts: list[tuple[str, bool]] = []
        end, before = 0, ""
        for is_trained, places in groupby(trained):
            end += len(list(places))
            # as the whole is decoded: a part alone may lose the blank that it begins with
            text = str(self._tokenizer.decode(list(ids[:end]), clean_up_tokenization_spaces=False))
            parts.append((text[len(before) :], is_trained))
            before = text
        return Passage(title, tuple(parts))


def table_of(use: str) -> str:
    """The table that a list's rows go into."""
    return "prompts" if use == "evaluation" else use


def as_messages(record: Record) -> tuple[Passage, ...]:
    """A record without tokens: its turns, and what stands for the answers."""
    if isinstance(record, PlainText):
        return (Passage("text", ((record.text, True),)),)
    messages = record.messages
    passages = [_turn(one, isinstance(record, Dialogue)) for one in messages]
    if isinstance(record, Pair):
        passages.append(Passage("chosen", ((record.chosen, True),)))
        passages.append(Passage("rejected", ((record.rejected, True),)))
    if isinstance(record, Solution):
        passages += [Passage("step", ((step, True),)) for step in record.steps]
    return tuple(passages)


def _turn(message: Message, learns_answers: bool) -> Passage:
    is_learnt = learns_answers and message.role == "assistant" and message.is_target
    return Passage(message.role, ((message.content, is_learnt),))


def _candidate(row: Row) -> Candidate:
    return Candidate(record_id(row.record), "train", opening_of_row(row), row)
