"""From candidates to the rows of a table: tokens within the window, up to the row limits."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from rlhf.data.frames import Rewriting
from rlhf.data.ledger import Ledger
from rlhf.data.records import Dialogue, Messages, Pair, PlainText, Prompt, as_list
from rlhf.data.split import Candidate, opening_of
from rlhf.data.tokens import ChatEncoder, EncodedPrompt, EncodedResponse
from rlhf.settings.schema import Data

# Candidates that are tokenised at once.
CHUNK = 1024

TableRow = dict[str, Any]
DropReason = str
R = TypeVar("R")


@dataclass(frozen=True)
class EncodedRow:
    """A row of a table as tokenisation leaves it.

    notes: what happened to it (prompt_shortened, chosen_truncated, ...); of texts that the template
        changed, an example
    """

    columns: Mapping[str, Any]
    notes: Mapping[str, Rewriting | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Exchange:
    """A prompt and the answers to it, by name (response; chosen and rejected)."""

    messages: Messages
    answers: Mapping[str, str] = field(default_factory=dict)


# Texts and tokens of the answers of a row, by name.
_Answers = Mapping[str, str]
_Responses = Mapping[str, EncodedResponse]
# What makes the columns of a row.
_Columns = Callable[[EncodedPrompt, _Answers, _Responses], TableRow]


def encode_up_to_limits(
    table_candidates: Sequence[Candidate],
    limits: Mapping[str, int],
    encode: Callable[[Sequence[Candidate]], list[EncodedRow | DropReason]],
    ledger: Ledger,
) -> list[TableRow]:
    """Encode candidates in their order until the limits are reached.

    limits: rows to keep by "split" or "split.kind". A row behind the last one kept is `over_limit`,
        whatever else may be wrong with it, so that the account does not depend on how many are
        encoded at once.
    """
    counts: Counter[str] = Counter()
    rows: list[TableRow] = []

    def is_full(candidate: Candidate) -> bool:
        return any(key in limits and counts[key] >= limits[key] for key in _limit_keys(candidate))

    remaining = iter(table_candidates)
    while chunk := list(islice(remaining, CHUNK)):
        # what lies behind a limit need not be tokenised
        wanted = [candidate for candidate in chunk if not is_full(candidate)]
        encoded = {
            candidate.id: result for candidate, result in zip(wanted, encode(wanted), strict=True)
        }
        for candidate in chunk:
            # asked again: an earlier row of this chunk may have filled the limit
            result = "over_limit" if is_full(candidate) else encoded[candidate.id]
            if isinstance(result, str):
                ledger.drop(candidate.row.location, result, MENDED_BY.get(result, ""))
                continue

            counts.update(_limit_keys(candidate))
            ledger.keep(candidate.row.location, candidate.split)
            for note, example in result.notes.items():
                ledger.note(candidate.row.use, note)
                if example:
                    ledger.show(candidate.row.location, note, example)
            rows.append({**_common_columns(candidate), **result.columns})
    return rows


# the setting that a reason of a drop, or a note on a row that stays, is about
_PROMPTS, _RESPONSES = "data.max_prompt_tokens", "data.max_response_tokens"
MENDED_BY = {
    "template_refuses_system": "model.system_messages: fold puts it into the user's first turn",
    "prompt_too_long": "the last question alone is over data.max_prompt_tokens, in which the chat "
    "template's own tokens count",
    "long_response": f"{_RESPONSES}, and data.long_responses: truncate, would keep it",
    "prompt_shortened": f"over {_PROMPTS}: the oldest exchanges are left out",
    **{
        f"{answer}_truncated": f"over {_RESPONSES}: the model does not see how it ends"
        for answer in ("response", "chosen", "rejected")
    },
    **{
        f"{part}_rewritten": "the chat template changes what was written, mostly blanks at its ends; "
        "model.chat_template: path:FILE sets another"
        for part in ("prompt", "response", "chosen", "rejected")
    },
}


def _limit_keys(candidate: Candidate) -> tuple[str, str]:
    return candidate.split, f"{candidate.split}.{candidate.row.kind}"


def _common_columns(candidate: Candidate) -> TableRow:
    row = candidate.row
    return {
        "id": candidate.id,
        "kind": row.kind,
        "split": candidate.split,
        "source": f"{row.file}:{row.line}",
    }


class TableEncoder:
    """Encodes the candidates of each table.

    Special tokens within a text would act as commands; such rows are dropped.

    taken: openings that no row may begin with. Where a prompt was shortened, another turn opens it.
    """

    def __init__(
        self, encoder: ChatEncoder, data: Data, taken: frozenset[str] = frozenset()
    ) -> None:
        self.encoder, self.data, self.taken = encoder, data, taken
        # the longest first, since one may begin with another
        ordered = sorted((name for name in encoder.commands if name.strip()), key=len, reverse=True)
        self._special_token = re.compile("|".join(re.escape(name) for name in ordered))

    def sft(self, rows: Sequence[Candidate]) -> list[EncodedRow | DropReason]:
        """Columns messages, input_ids and loss_mask."""
        exchanges = []
        for candidate in rows:
            *before, answer = record_of(candidate, Dialogue).messages
            exchanges.append(Exchange(tuple(before), {"response": answer.content}))
        return self._encode(exchanges, _sft_columns)

    def preferences(self, rows: Sequence[Candidate]) -> list[EncodedRow | DropReason]:
        """Columns messages, chosen, rejected and the ids of prompt, chosen and rejected."""
        exchanges = []
        for candidate in rows:
            pair = record_of(candidate, Pair)
            answers = {"chosen": pair.chosen, "rejected": pair.rejected}
            exchanges.append(Exchange(pair.messages, answers))
        return self._encode(exchanges, _preference_columns)

    def prompts(self, rows: Sequence[Candidate]) -> list[EncodedRow | DropReason]:
        """Columns messages, prompt_ids and reference."""
        prompts = [record_of(candidate, Prompt) for candidate in rows]
        encoded = self._encode([Exchange(prompt.messages) for prompt in prompts], _prompt_columns)
        return [
            result if isinstance(result, str) else _with_reference(result, prompt)
            for result, prompt in zip(encoded, prompts, strict=True)
        ]

    def _encode(
        self, exchanges: Sequence[Exchange], columns: _Columns
    ) -> list[EncodedRow | DropReason]:
        prompts = self.encoder.prompts([exchange.messages for exchange in exchanges])
        responses = self._encode_answers(exchanges, prompts)

        results: list[EncodedRow | DropReason] = []
        for exchange, prompt, row_responses in zip(exchanges, prompts, responses, strict=True):
            if prompt is None:
                results.append(why_no_prompt(self.encoder, exchange.messages))
                continue
            opening = opening_of(prompt.messages)
            reason = self.drop_reason(exchange, opening, row_responses)
            if reason is not None:
                results.append(reason)
                continue
            row = columns(prompt, exchange.answers, row_responses) | {"opening": opening}
            results.append(EncodedRow(row, notes_of(exchange, prompt, row_responses)))
        return results

    def _encode_answers(
        self, exchanges: Sequence[Exchange], prompts: Sequence[EncodedPrompt | None]
    ) -> list[dict[str, EncodedResponse]]:
        """Encode the answers of all rows in one batch; a prompt that is too long gets none."""
        messages: list[Messages] = []
        texts: list[str] = []
        for exchange, prompt in zip(exchanges, prompts, strict=True):
            if prompt is not None:
                messages += [prompt.messages] * len(exchange.answers)
                texts += exchange.answers.values()
        encoded = iter(self.encoder.responses(messages, texts))

        # dealt out again, row by row
        responses: list[dict[str, EncodedResponse]] = []
        for exchange, prompt in zip(exchanges, prompts, strict=True):
            names = exchange.answers if prompt is not None else ()
            responses.append({name: next(encoded) for name in names})
        return responses

    def drop_reason(
        self, exchange: Exchange, opening: str, responses: _Responses
    ) -> DropReason | None:
        """Why a row is in no table; None where it is in one."""
        # The order of the checks decides what a row with several faults is counted as.
        texts = [message.content for message in exchange.messages]
        if any(self._special_token.search(text) for text in (*texts, *exchange.answers.values())):
            return "special_token"
        if opening in self.taken:
            return "opening_in_other_split"

        is_truncated = any(response.truncated for response in responses.values())
        if is_truncated and self.data.long_responses == "drop":
            return "long_response"

        # nothing is left to prefer
        is_pair = {"chosen", "rejected"} <= set(responses)
        if is_pair and responses["chosen"].ids == responses["rejected"].ids:
            return "equal_once_cut"
        return None


def why_no_prompt(encoder: ChatEncoder, messages: Messages) -> DropReason:
    """Why messages gave no prompt."""
    refused = encoder.refusal(messages) is not None
    if refused and messages[0].role == "system" and encoder.refusal(messages[1:]) is None:
        return "template_refuses_system"
    return "template_refuses_roles" if refused else "prompt_too_long"


def notes_of(
    exchange: Exchange, prompt: EncodedPrompt, responses: _Responses
) -> dict[str, Rewriting | None]:
    """What happened to a row that stays; of texts that the template changed, an example."""
    is_shortened = len(prompt.messages) < len(exchange.messages)
    shortened = ["prompt_shortened"] if is_shortened else []
    shortened += ["thoughts_cut"] if prompt.thoughts_cut else []
    truncated = [f"{name}_truncated" for name, response in responses.items() if response.truncated]
    found = {"prompt": prompt.rewritten}
    found |= {name: response.rewritten for name, response in responses.items()}
    rewritten = {f"{name}_rewritten": example for name, example in found.items() if example}
    return {**dict.fromkeys([*shortened, *truncated]), **rewritten}


def _sft_columns(prompt: EncodedPrompt, answers: _Answers, responses: _Responses) -> TableRow:
    answer = {"role": "assistant", "content": answers["response"]}
    response_ids = responses["response"].ids
    return {
        "messages": as_json([*as_list(prompt.messages), answer]),
        "input_ids": prompt.ids + response_ids,
        "loss_mask": prompt.target_mask + [True] * len(response_ids),
    }


def _preference_columns(
    prompt: EncodedPrompt, answers: _Answers, responses: _Responses
) -> TableRow:
    return {
        "messages": as_json(as_list(prompt.messages)),
        "chosen": answers["chosen"],
        "rejected": answers["rejected"],
        "prompt_ids": prompt.ids,
        "chosen_ids": responses["chosen"].ids,
        "rejected_ids": responses["rejected"].ids,
    }


def _prompt_columns(prompt: EncodedPrompt, answers: _Answers, responses: _Responses) -> TableRow:
    return {"messages": as_json(as_list(prompt.messages)), "prompt_ids": prompt.ids}


def _with_reference(row: EncodedRow, prompt: Prompt) -> EncodedRow:
    return EncodedRow({**row.columns, "reference": prompt.reference}, row.notes)


# -- plain text --


def pack_texts(
    encoder: ChatEncoder, texts: Sequence[Candidate], data: Data, ledger: Ledger
) -> list[TableRow]:
    """Join the texts of each split and cut them into windows of `pretrain_tokens`.

    A shorter rest is left out. A split with less than one window of text gets the one short window
    that there is.
    """
    rows: list[TableRow] = []
    for split in dict.fromkeys(candidate.split for candidate in texts):
        texts_of_split = [candidate for candidate in texts if candidate.split == split]
        rows += _pack_split(encoder, split, texts_of_split, data, ledger)
    return rows


def _pack_split(
    encoder: ChatEncoder, split: str, texts: Sequence[Candidate], data: Data, ledger: Ledger
) -> list[TableRow]:
    size = data.pretrain_tokens
    keys = (f"pretrain.{split}", f"pretrain.{split}.plain")
    limit = min((data.limits[key] for key in keys if key in data.limits), default=None)

    windows: list[TableRow] = []
    buffer: list[int] = []
    for candidate in texts:
        if limit is not None and len(windows) >= limit:
            ledger.drop(candidate.row.location, "over_limit")
            continue
        ledger.keep(candidate.row.location, split)
        # an empty line keeps texts apart, since no special token does
        (ids,) = encoder.texts([record_of(candidate, PlainText).text + "\n\n"])
        buffer += ids
        while len(buffer) >= size:
            windows.append(_window(candidate, buffer[:size], len(windows), encoder))
            buffer = buffer[size:]

    if not windows and buffer:
        windows.append(_window(texts[-1], buffer, 0, encoder))
    # one long text may fill several windows
    return windows[:limit]


def _window(candidate: Candidate, ids: list[int], number: int, encoder: ChatEncoder) -> TableRow:
    """A window, under the name of the text that it ends with."""
    return {
        **_common_columns(candidate),
        "id": f"{candidate.id}-{number}",
        "text": encoder.tokenizer.decode(ids),
        "input_ids": ids,
    }


def record_of(candidate: Candidate, record_type: type[R]) -> R:
    """A candidate's record, of the type that its table has."""
    record = candidate.row.record
    # load_rows made it so
    assert isinstance(record, record_type)
    return record


def as_json(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as a column holds them."""
    return json.dumps(messages, ensure_ascii=False)
