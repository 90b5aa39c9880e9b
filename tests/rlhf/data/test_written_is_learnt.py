"""What was written is what is learnt: a row of any shape, through reading, template and tokens, and back.

Only line ends and control characters may differ.
"""

import re
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rows import DIALOGUES, PAIRS, Row, dialogue_of
from raw_files import transcript
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.commands.data_rows import RowEncoder
from rlhf.common.yaml import parse_yaml
from rlhf.data.load import as_dialogue, as_pair
from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Pair, Record
from rlhf.data.records import Row as DataRow
from rlhf.data.rows import BrokenRow
from rlhf.data.templates import Fit, fit_tokenizer
from rlhf.settings import preset_text, settings_from

OWN = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
# how an answer stands in each template
ANSWERS = {"chatml": "{}<|im_end|>", "plain": " {}<|endoftext|>", "own": "{}<end>"}
FITS = {
    "chatml": Fit("chatml"),
    "plain": Fit("plain"),
    "own": Fit("own", add_tokens=("<turn>", "<end>")),
}
# what templates of others do to turns; the last one writes no system message
CHANGING = {
    "trims": OWN.replace("m['content']", "m['content'].strip()"),
    "lower-cases": OWN.replace("m['content']", "m['content'].lower()"),
    "cuts": OWN.replace("m['content']", "m['content'][:4]"),
    "ignores": OWN.replace("messages %}", "messages if m['role'] != 'system' %}"),
}
TOKENIZERS: dict[str, PreTrainedTokenizerBase] = {}

# what a row is dropped for that says it
COMMANDS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>", "<turn>", "<end>")
# all that a file can hold: control characters and line ends of any kind, blanks at the ends, markup
PIECES = st.sampled_from(
    ["\r\n", "\r", "\x00", "\x1b[0m", "\x7f", " ", "\t", "\n\n", "<b>", "&amp;"]
)
TEXT = (
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | PIECES, max_size=6)
    .map("".join)
    .filter(lambda text: bool(kept(text).strip()))
    # hypothesis tries the texts of the sources too; such rows have a test of their own
    .filter(lambda text: not any(command in kept(text) for command in COMMANDS))
)
TURNS = st.lists(TEXT, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0)
few = settings(max_examples=10, deadline=None)


def kept(text: str) -> str:
    """The text with line feeds for line ends, without control characters but tabs."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", re.sub(r"\r\n|\r", "\n", text))


@pytest.fixture(scope="module", params=ANSWERS)
def template(request: pytest.FixtureRequest, base_model: Any) -> str:
    """The name of a template; its tokenizer is in TOKENIZERS."""
    name: str = request.param
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    # as of a base without a template
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template = OWN if name == "own" else None
    fit_tokenizer(tokenizer, FITS[name])
    TOKENIZERS[name] = tokenizer
    return name


def encoded(record: Record, use: str, template: str) -> dict[str, Any] | str:
    """The columns of a record's row in the table of its use, or why there is none."""
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["data"] |= {"max_prompt_tokens": 4096, "max_response_tokens": 2048}
    encoder = RowEncoder(TOKENIZERS[template], settings_from(content).data)
    (row,) = encoder([DataRow(record, "other", use, 0, "made.jsonl", 1, None)])
    if isinstance(row, str):
        return row
    # none of these templates changes anything
    assert not row.notes or template in CHANGING
    return dict(row.columns) | {"notes": set(row.notes)}


def said(ids: list[int], template: str) -> str:
    return str(TOKENIZERS[template].decode(ids, clean_up_tokenization_spaces=False))


def answers_learnt(columns: dict[str, Any], template: str) -> list[str]:
    """The texts of the runs of tokens that a loss reads."""
    pairs = zip(columns["input_ids"], columns["loss_mask"], strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1])
    return [said([token for token, _ in run], template) for learnt, run in runs if learnt]


def whole(messages: list[dict[str, str]], template: str, *, asks: bool) -> str:
    """What transformers makes of a dialogue."""
    tokenizer = TOKENIZERS[template]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))


def chat(turns: list[str], system: str | None) -> list[dict[str, str]]:
    return [
        {"role": message.role, "content": kept(message.content)}
        for message in dialogue_of(turns, system)
    ]


@pytest.mark.parametrize("shape", DIALOGUES)
@few
@given(turns=TURNS, system=st.none() | TEXT)
def test_dialogues(template: str, shape: str, turns: list[str], system: str | None) -> None:
    record = parse_row(DIALOGUES[shape](dialogue_of(turns, system))).record
    assert isinstance(record, Dialogue)
    columns = encoded(record, "sft", template)
    assert not isinstance(columns, str)
    answers = [ANSWERS[template].format(kept(turn)) for turn in turns[1::2]]
    assert answers_learnt(columns, template) == answers
    # and the questions around them are read as they were written
    text = whole(chat(turns, system), template, asks=False)
    assert said(columns["input_ids"], template) == text.removesuffix("\n" * (template != "plain"))


@pytest.mark.parametrize("shape", PAIRS)
@few
@given(turns=TURNS, system=st.none() | TEXT, rejected=TEXT)
def test_pairs(
    template: str, shape: str, turns: list[str], system: str | None, rejected: str
) -> None:
    rejected = f"no: {rejected}"
    if kept(rejected).strip() == kept(turns[-1]).strip():
        return
    record = as_pair(parse_row(PAIRS[shape](dialogue_of(turns, system), rejected)).record)
    columns = encoded(record, "preferences", template)
    assert not isinstance(columns, str)
    for name, answer in (("chosen", turns[-1]), ("rejected", rejected)):
        assert said(columns[f"{name}_ids"], template) == ANSWERS[template].format(kept(answer))
    asked = whole(chat(turns, system)[:-1], template, asks=True)
    assert said(columns["prompt_ids"], template) == asked
    # as a demonstration it is its chosen answer
    demonstration = encoded(as_dialogue(record), "sft", template)
    assert not isinstance(demonstration, str)
    assert demonstration["input_ids"] == columns["prompt_ids"] + columns["chosen_ids"]


@few
@given(turns=TURNS, rejected=TEXT)
def test_transcripts(template: str, turns: list[str], rejected: str) -> None:
    """Where a turn looks like several, the row is dropped and never learnt otherwise."""
    sides = [transcript(*turns[:-1], answer) for answer in (turns[-1], rejected)]
    try:
        record = parse_row({"chosen": sides[0], "rejected": sides[1]}).record
    except BrokenRow:
        return
    columns = encoded(record, "preferences", template)
    assert isinstance(record, Pair) and not isinstance(columns, str)
    for name, answer in (("chosen", turns[-1]), ("rejected", rejected)):
        assert said(columns[f"{name}_ids"], template) == ANSWERS[template].format(kept(answer))


@few
@given(text=TEXT)
def test_plain_text_and_prompts(template: str, text: str) -> None:
    columns = encoded(parse_row({"text": text}).record, "pretrain", template)
    assert not isinstance(columns, str)
    assert said(columns["input_ids"], template) == kept(text)
    row: Row = {"prompt": [{"role": "user", "content": text}]}
    columns = encoded(parse_row(row).record, "prompts", template)
    assert not isinstance(columns, str)
    asked = whole(chat([text], None), template, asks=True)
    assert said(columns["prompt_ids"], template) == asked


@few
@given(question=TEXT, steps=st.lists(TEXT, min_size=1, max_size=4))
def test_steps(template: str, question: str, steps: list[str]) -> None:
    asked = [{"role": "user", "content": question}]
    record = parse_row({"prompt": asked, "steps": steps, "labels": [True] * len(steps)}).record
    columns = encoded(record, "steps", template)
    if isinstance(columns, str):
        # two steps in one
        assert columns == "separator_in_step" and any("\n" in kept(step) for step in steps)
        return
    answer = "\n".join(map(kept, steps))
    assert said(columns["response_ids"], template) == ANSWERS[template].format(answer)


@pytest.fixture(scope="module", params=CHANGING)
def changing(request: pytest.FixtureRequest, base_model: Any) -> str:
    """The name of a template that changes turns; its tokenizer is in TOKENIZERS."""
    name: str = request.param
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.add_tokens(["<turn>", "<end>"], special_tokens=True)
    tokenizer.chat_template, tokenizer.eos_token = CHANGING[name], "<end>"
    TOKENIZERS[name] = tokenizer
    return name


def as_own(messages: list[dict[str, str]]) -> str:
    """A prompt as a template writes it that changes nothing."""
    turns = (f"<turn>{one['role']}\n{one['content']}<end>\n" for one in messages)
    return "".join(turns) + "<turn>assistant\n"


@settings(max_examples=40, deadline=None)
@given(turns=TURNS, system=st.none() | TEXT, rejected=TEXT)
def test_what_a_template_changes_is_counted_and_nothing_else(
    changing: str, turns: list[str], system: str | None, rejected: str
) -> None:
    rejected = f"no: {rejected}"
    if kept(rejected).strip() == kept(turns[-1]).strip():
        return
    row = PAIRS["prompt and messages"](dialogue_of(turns, system), rejected)
    record = as_pair(parse_row(row).record)
    columns = encoded(record, "preferences", changing)
    if isinstance(columns, str):
        is_ignored = changing == "ignores" and system is not None
        # which two answers become by small letters, or cut off
        assert columns == ("template_refuses_system" if is_ignored else "equal_once_cut")
        return
    assert changing != "ignores" or system is None
    written = {
        "prompt": as_own(chat(turns, system)[:-1]),
        "chosen": f"{kept(turns[-1])}<end>",
        "rejected": f"{kept(rejected)}<end>",
    }
    for name, text in written.items():
        is_written = said(columns[f"{name}_ids"], changing) == text
        assert is_written != (f"{name}_rewritten" in columns["notes"])
    # as a demonstration the same is learnt, and counted
    demonstration = encoded(as_dialogue(record), "sft", changing)
    assert not isinstance(demonstration, str)
    assert demonstration["input_ids"] == columns["prompt_ids"] + columns["chosen_ids"]
    assert ("prompt_rewritten" in demonstration["notes"]) == (
        "prompt_rewritten" in columns["notes"]
    )


@pytest.mark.parametrize("shape", ["messages", "question and answer"])
def test_a_command_of_the_template_is_dropped_and_not_learnt(template: str, shape: str) -> None:
    for command in (ANSWERS[template].format(""), "<|endoftext|>"):
        turns = dialogue_of(["Say it", f"so {command.strip()} be it"], None)
        record = parse_row(DIALOGUES[shape](turns)).record
        assert encoded(record, "sft", template) == "special_token"
