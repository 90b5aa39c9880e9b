"""`weight: 0` and `train: false` on a message: it is read, and not learnt."""

from typing import Any

import pytest
from published_rows import reason_of
from transformers import PreTrainedTokenizerBase

from rlhf.data.encode import EncodedRow, TableEncoder
from rlhf.data.load import as_prompt
from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue
from rlhf.data.rules import Rules
from rlhf.data.split import Candidate
from rlhf.data.tokens import ChatEncoder
from rlhf.settings.schema import Settings


def chat(*beside: dict[str, Any]) -> dict[str, Any]:
    """Questions and answers; `beside`: the further keys of each answer."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be short.", "weight": 0}]
    for place, keys in enumerate(beside):
        messages.append({"role": "user", "content": f"Q{place}?", "weight": 0})
        messages.append({"role": "assistant", "content": f"A{place}.", **keys})
    return {"messages": messages}


def learnt(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: Settings, size: int = 1000
) -> str:
    """The tokens that the loss reads, as text."""
    parsed = parse_row(row)
    assert isinstance(parsed.record, Dialogue) and not parsed.unread
    encoder = TableEncoder(ChatEncoder(tokenizer, size, 1000), settings.data)
    candidate: Any = Candidate("", "train", "", type("Row", (), {"record": parsed.record})())
    (encoded,) = encoder.sft([candidate])
    assert isinstance(encoded, EncodedRow)
    ids, mask = encoded.columns["input_ids"], encoded.columns["loss_mask"]
    return str(tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on]))


@pytest.mark.parametrize("zero", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
@pytest.mark.parametrize("one", [{}, {"weight": 1}, {"train": True}, {"weight": None}])
def test_an_answer_without_weight_is_not_learnt(
    zero: dict[str, Any],
    one: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    make_settings: Any,
) -> None:
    settings, end = make_settings(), "<|im_end|>"
    row = chat(one, zero, one)
    assert learnt(row, tokenizer, settings) == f"A0.{end}A2.{end}"
    # where the oldest turns go, it is the same answer still
    assert learnt(row, tokenizer, settings, 55) in (f"A0.{end}A2.{end}", f"A2.{end}")
    assert learnt(chat(one, one), tokenizer, settings) == f"A0.{end}A1.{end}"
    assert reason_of(chat(one, zero))[0] == "answer_without_weight"


def test_turns_that_are_joined_have_weight_if_both_have() -> None:
    messages = chat({}, {})["messages"]
    messages.insert(3, {"role": "assistant", "content": "More.", "weight": 0})
    record = parse_row({"messages": messages}, None, Rules(repeated_roles="join")).record
    assert isinstance(record, Dialogue)
    assert [m.is_target for m in record.messages if m.role == "assistant"] == [False, True]
    # what was said is the same, whatever its weight
    assert as_prompt(record).messages[2].content == "A0.\n\nMore."


def test_a_weight_that_is_no_yes_or_no_is_told() -> None:
    assert parse_row(chat({"weight": 0.5})).unread == ("message.weight",)
