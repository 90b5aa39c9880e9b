import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_files import transcript, write_lines

from rlhf.common.errors import DataError
from rlhf.data.load import as_dialogue, as_pair, as_prompt, as_text
from rlhf.data.parse import parse_row
from rlhf.data.read import BrokenRow, kind_from_path, published_split, read_rows
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Prompt, Record

ASK, TELL = Message("user", "Why?"), Message("assistant", "Because.")


def as_chat(*messages: Message) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


ASKED, TOLD = Dialogue((ASK, TELL)), Pair((ASK,), "Because.", "No.")
TALK = (Message("user", "Hi"), Message("assistant", "Hello"), ASK)
BRIEFED = (Message("system", "Be kind."), ASK, TELL)
SUM = Dialogue((Message("user", "Sum\n\n1 2"), Message("assistant", "3")))
NO = [{"role": "assistant", "content": "No."}]
TALKED = {
    "chosen": transcript("Hi", "Hello", "Why?", "Because."),
    "rejected": transcript("Hi", "Hello", "Why?", "No."),
}


@pytest.mark.parametrize(
    ("row", "record", "kind"),
    [
        (TALKED, Pair(TALK, "Because.", "No."), "other"),
        (
            {"kind": "harmless", "messages": as_chat(ASK), "chosen": "Because.", "rejected": "No."},
            TOLD,
            "harmless",
        ),
        (
            {"prompt": "Why?", "chosen": as_chat(ASK, TELL), "rejected": as_chat(ASK) + NO},
            TOLD,
            "other",
        ),
        ({"prompt": as_chat(ASK), "chosen": as_chat(TELL), "rejected": NO}, TOLD, "other"),
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, TOLD, "other"),
        ({"messages": as_chat(*BRIEFED)}, Dialogue(BRIEFED), "other"),
        ({"messages": as_chat(ASK)}, Prompt((ASK,)), "other"),
        (
            {
                "messages": [
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "Because."},
                ]
            },
            ASKED,
            "other",
        ),
        (
            {"instruction": "Why?", "input": "", "output": "Because.", "category": "qa"},
            ASKED,
            "helpful",
        ),
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, SUM, "helpful"),
        ({"instruction": "Sum", "instances": [{"input": "1 2", "output": "3"}]}, SUM, "helpful"),
        ({"prompt": "\n\nHuman: Why?\n\nAssistant:", "source_row": 3}, Prompt((ASK,)), "other"),
        ({"question_id": 1, "turns": ["Why?", "And then?"]}, Prompt((ASK,)), "helpful"),
        ({"Goal": "Why?", "Target": "Sure"}, Prompt((ASK,)), "harmless"),
        ({"text": " Some\r\ntext. "}, PlainText("Some\ntext."), "plain"),
    ],
)
def test_every_shape_is_recognised(row: dict[str, Any], record: Record, kind: str) -> None:
    assert parse_row(row) == (record, kind)


def test_kind_of_the_row_beats_the_files_and_the_files_the_shapes() -> None:
    assert parse_row({"Goal": "x", "kind": "helpful"}, "harmless")[1] == "helpful"
    assert parse_row({"turns": ["x"]}, "harmless")[1] == "harmless"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"chosen": transcript("Why?", "Yes."), "rejected": transcript("Why?", "Yes. ")},
            "chosen_equals_rejected",
        ),
        (
            {"chosen": transcript("Why?", ""), "rejected": transcript("Why?", "Yes.")},
            "empty_answer",
        ),
        (
            {"chosen": transcript("Why?", "Yes.", "And?"), "rejected": transcript("Why?", "No.")},
            "not_ending_with_assistant",
        ),
        (
            {"chosen": transcript("Why?", "Yes."), "rejected": transcript("How?", "No.")},
            "prompts_differ",
        ),
        (
            {
                "chosen": transcript("Why?", "", "And?", "Yes."),
                "rejected": transcript("Why?", "", "And?", "No."),
            },
            "empty_message",
        ),
        (
            {
                "chosen": transcript("Why?", "Yes.") + "\n\nAssistant: x",
                "rejected": transcript("Why?", "No."),
            },
            "roles_out_of_order",
        ),
        ({"chosen": "Hello", "rejected": transcript("Why?", "No.")}, "not_a_transcript"),
        (
            {"messages": [{"role": "user", "content": "Why?"}], "chosen": "", "rejected": "No."},
            "empty_answer",
        ),
        ({"messages": []}, "no_messages"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "roles_out_of_order"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "unknown_role"),
        ({"messages": "Hi"}, "wrong_type"),
        ({"messages": [{"role": "user", "content": None}]}, "wrong_type"),
        ({"instruction": "Sum", "output": ""}, "empty_answer"),
        ({"prompt": transcript("Why?", "Because.")}, "not_ending_with_user"),
        ({"turns": []}, "wrong_type"),
        ({"text": " \n "}, "empty_text"),
        ({"question": "Why?"}, "unknown_shape"),
    ],
)
def test_broken_rows_are_named_by_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BrokenRow) as raised:
        parse_row(row)
    assert raised.value.reason == reason


def test_one_record_serves_several_uses() -> None:
    pair = Pair((ASK,), "Because.", "No.")
    assert as_dialogue(pair) == Dialogue((ASK, TELL))
    assert as_prompt(pair) == as_prompt(Dialogue((ASK, TELL))) == Prompt((ASK,))
    for convert, record, reason in (
        (as_pair, Prompt((ASK,)), "not_a_pair"),
        (as_dialogue, Prompt((ASK,)), "not_ending_with_assistant"),
        (as_text, pair, "not_plain_text"),
        (as_prompt, PlainText("x"), "not_a_prompt"),
    ):
        with pytest.raises(BrokenRow, match=reason):
            convert(record)


def test_bad_lines_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, "{oops", "", "[1]", {"text": "two"}])
    path.write_bytes(path.read_bytes() + b'{"text": "\xff"}\n')
    seen = [
        (line, row.reason if isinstance(row, BrokenRow) else row["text"])
        for line, row in read_rows(path)
    ]
    assert seen == [(1, "one"), (2, "not_json"), (4, "not_an_object"), (5, "two"), (6, "not_utf8")]


def test_gzip_and_parquet_read_alike(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"messages": [{"role": "user", "content": "How?"}]},
    ]
    packed = write_lines(tmp_path / "a.jsonl.gz", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert (
        list(read_rows(packed))
        == list(read_rows(tmp_path / "a.parquet"))
        == [(1, rows[0]), (2, rows[1])]
    )


def test_cut_off_files_are_refused_by_name(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "one"}\n' * 500)[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read to its end"):
        list(read_rows(packed))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"a\.parquet: not readable"):
        list(read_rows(tmp_path / "a.parquet"))


def test_names_tell_split_and_kind() -> None:
    splits = {
        "x/train.jsonl.gz": "train",
        "test-00000-of-00001.parquet": "test",
        "testimony.jsonl": None,
        "data.jsonl": None,
    }
    assert {name: published_split(Path(name)) for name in splits} == splits
    kinds = {
        "harmless-base/train.jsonl": "harmless",
        "helpful-online/x/a.jsonl": "helpful",
        "hh/a.jsonl": None,
    }
    assert {name: kind_from_path(Path(name)) for name in kinds} == kinds
