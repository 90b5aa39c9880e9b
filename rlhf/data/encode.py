"""From candidates to the rows of a table: tokens within the window of the settings, up to the limits of the settings."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from rlhf.data.ledger import Ledger
from rlhf.data.records import Dialogue, Messages, Pair, PlainText, Prompt, as_list
from rlhf.data.split import Candidate, opening_of
from rlhf.data.tokens import ChatEncoder, Encoded
from rlhf.settings.schema import Data

CHUNK = 1024
R = TypeVar("R")


@dataclass(frozen=True)
class Kept:
    """A row of a table as the tokenisation leaves it, and what befell it (prompt_shortened, chosen_truncated, ...)."""

    columns: Mapping[str, Any]
    notes: tuple[str, ...] = ()


Outcome = Kept | str  # a row, or the reason why there is none


def take(
    chosen: Sequence[Candidate],
    limits: Mapping[str, int],
    encode: Callable[[Sequence[Candidate]], list[Outcome]],
    ledger: Ledger,
) -> list[dict[str, Any]]:
    """Encode candidates in their order until the limits are reached.

    limits: rows kept by "split" or "split.kind". A row behind the last one kept is `over_limit`, whatever else may be
    wrong with it, so that the account does not depend on how many are encoded at once.
    """
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []

    def full(candidate: Candidate) -> bool:
        keys = (candidate.split, f"{candidate.split}.{candidate.row.kind}")
        return any(key in limits and counts[key] >= limits[key] for key in keys)

    waiting = iter(chosen)
    while chunk := list(islice(waiting, CHUNK)):
        open_now = [candidate for candidate in chunk if not full(candidate)]
        outcomes = dict(
            zip((candidate.id for candidate in open_now), encode(open_now), strict=True)
        )
        for candidate in chunk:
            outcome = "over_limit" if full(candidate) else outcomes[candidate.id]
            if isinstance(outcome, str):
                ledger.drop(candidate.place, outcome)
                continue
            counts.update((candidate.split, f"{candidate.split}.{candidate.row.kind}"))
            ledger.keep(candidate.place, candidate.split)
            for note in outcome.notes:
                ledger.note(candidate.row.use, note)
            rows.append({**_common(candidate), **outcome.columns})
    return rows


def _common(candidate: Candidate) -> dict[str, Any]:
    row = candidate.row
    return {
        "id": candidate.id,
        "kind": row.kind,
        "split": candidate.split,
        "source": f"{row.file}:{row.line}",
    }


class TableEncoder:
    """Encodes candidates of each table; special tokens within a text would act as commands, such rows are refused.

    taken: openings that no row may begin with: where a prompt was shortened, another turn opens it
    """

    def __init__(
        self, encoder: ChatEncoder, data: Data, taken: frozenset[str] = frozenset()
    ) -> None:
        self.encoder, self.data, self.taken = encoder, data, taken
        names = sorted(
            {*encoder.tokenizer.all_special_tokens, *encoder.tokenizer.get_added_vocab()},
            key=len,
            reverse=True,
        )
        self._special = re.compile("|".join(re.escape(name) for name in names if name.strip()))

    def sft(self, chosen: Sequence[Candidate]) -> list[Outcome]:
        """Columns messages, input_ids and loss_mask."""
        dialogues = [_record(candidate, Dialogue).messages for candidate in chosen]
        rows = [(messages[:-1], (messages[-1].content,)) for messages in dialogues]
        return self._encode(rows, ("response",), self._sft_columns)

    def preferences(self, chosen: Sequence[Candidate]) -> list[Outcome]:
        """Columns messages, chosen, rejected and the ids of prompt, chosen and rejected."""
        pairs = [_record(candidate, Pair) for candidate in chosen]
        rows = [(pair.messages, (pair.chosen, pair.rejected)) for pair in pairs]
        return self._encode(rows, ("chosen", "rejected"), self._pair_columns)

    def prompts(self, chosen: Sequence[Candidate]) -> list[Outcome]:
        """Columns messages and prompt_ids."""
        return self._encode(
            [(_record(candidate, Prompt).messages, ()) for candidate in chosen],
            (),
            self._prompt_columns,
        )

    def _encode(
        self,
        rows: Sequence[tuple[Messages, tuple[str, ...]]],
        names: Sequence[str],
        columns: Callable[[Encoded, Sequence[str], Sequence[list[int]]], dict[str, Any] | str],
    ) -> list[Outcome]:
        """Encode prompts with one answer for each of `names`."""
        prompts = self.encoder.prompts([messages for messages, _ in rows])
        fits = [
            (prompt.messages, answer)
            for prompt, row in zip(prompts, rows, strict=True)
            if prompt
            for answer in row[1]
        ]
        responses = iter(
            self.encoder.responses(
                [messages for messages, _ in fits], [answer for _, answer in fits]
            )
        )
        outcomes: list[Outcome] = []
        for prompt, (messages, answers) in zip(prompts, rows, strict=True):
            if prompt is None:
                outcomes.append("prompt_too_long")
                continue
            own = list(islice(responses, len(answers)))
            cut = [
                f"{name}_truncated"
                for name, response in zip(names, own, strict=True)
                if response.cut
            ]
            if any(
                self._special.search(text)
                for text in (*(message.content for message in messages), *answers)
            ):
                outcomes.append("special_token")
            elif (opening := opening_of(prompt.messages)) in self.taken:
                outcomes.append("opening_in_other_split")
            elif cut and self.data.long_responses == "drop":
                outcomes.append("long_response")
            else:
                made = columns(prompt, answers, [response.ids for response in own])
                shortened = ["prompt_shortened"] if len(prompt.messages) < len(messages) else []
                whole = (
                    made
                    if isinstance(made, str)
                    else Kept({**made, "opening": opening}, (*shortened, *cut))
                )
                outcomes.append(whole)
        return outcomes

    @staticmethod
    def _sft_columns(
        prompt: Encoded, answers: Sequence[str], responses: Sequence[list[int]]
    ) -> dict[str, Any]:
        messages = [*as_list(prompt.messages), {"role": "assistant", "content": answers[0]}]
        return {
            "messages": _json(messages),
            "input_ids": prompt.ids + responses[0],
            "loss_mask": prompt.learned + [True] * len(responses[0]),
        }

    @staticmethod
    def _pair_columns(
        prompt: Encoded, answers: Sequence[str], responses: Sequence[list[int]]
    ) -> dict[str, Any] | str:
        if responses[0] == responses[1]:
            return "equal_once_cut"
        return {
            "messages": _json(as_list(prompt.messages)),
            "chosen": answers[0],
            "rejected": answers[1],
            "prompt_ids": prompt.ids,
            "chosen_ids": responses[0],
            "rejected_ids": responses[1],
        }

    @staticmethod
    def _prompt_columns(
        prompt: Encoded, answers: Sequence[str], responses: Sequence[list[int]]
    ) -> dict[str, Any]:
        return {"messages": _json(as_list(prompt.messages)), "prompt_ids": prompt.ids}


def text_windows(
    encoder: ChatEncoder, chosen: Sequence[Candidate], data: Data, ledger: Ledger
) -> list[dict[str, Any]]:
    """Join the texts of each split and cut them into windows of `pretrain_tokens`; a shorter rest is left out.

    A split with less than one window of text gets the one short window that there is.
    """
    size = data.pretrain_tokens
    rows: list[dict[str, Any]] = []
    for split in dict.fromkeys(candidate.split for candidate in chosen):
        keys = (f"pretrain.{split}", f"pretrain.{split}.plain")
        limit = min((data.limits[key] for key in keys if key in data.limits), default=None)
        windows: list[dict[str, Any]] = []
        buffer: list[int] = []
        own = [candidate for candidate in chosen if candidate.split == split]
        for candidate in own:
            if limit is not None and len(windows) >= limit:
                ledger.drop(candidate.place, "over_limit")
                continue
            ledger.keep(candidate.place, split)
            buffer += encoder.texts([_record(candidate, PlainText).text + "\n\n"])[0]
            while len(buffer) >= size:
                windows.append(_window(candidate, buffer[:size], len(windows), encoder))
                buffer = buffer[size:]
        if not windows and buffer:
            windows.append(_window(own[-1], buffer, 0, encoder))
        rows += windows[:limit]
    return rows


def _window(
    candidate: Candidate, ids: list[int], number: int, encoder: ChatEncoder
) -> dict[str, Any]:
    """A window, under the name of the text that it ends with."""
    return {
        **_common(candidate),
        "id": f"{candidate.id}-{number}",
        "text": encoder.tokenizer.decode(ids),
        "input_ids": ids,
    }


def _record(candidate: Candidate, kind: type[R]) -> R:
    record = candidate.row.record
    assert isinstance(record, kind)  # load_rows made it so
    return record


def _json(messages: Sequence[Mapping[str, str]]) -> str:
    return json.dumps(messages, ensure_ascii=False)
