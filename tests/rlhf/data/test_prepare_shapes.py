"""Rows as people publish them, from the file to the tables: all that is kept is what was written."""

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from raw_files import pair_row, summary_of, transcript, write_lines
from transformers import PreTrainedTokenizerBase

from rlhf.batches.tables import read_table
from rlhf.common.errors import DataError
from rlhf.common.files import read_json
from rlhf.data.prepare import contradictions, prepare
from rlhf.data.records import Message, Pair
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Make = Callable[..., Settings]

CODE = "def f():\n    x = [1]\n\n\n\n    return x  # <b> is bold, Vec<u> a type &amp; so on\n"
DEMONSTRATIONS: dict[str, list[Any]] = {
    "sharegpt": [
        {
            "system": "You are a sailor.",
            "conversations": [
                {"from": "human", "value": "Which tag, <i> or <em>?"},
                {"from": "gpt", "value": CODE},
            ],
        }
    ],
    "dolly": [{"instruction": "Who?", "context": "By M. Arden.", "response": "M. Arden.  "}],
    "completions": [{"prompt": "Where do otters sleep?", "completion": "In the water."}],
    "tools": [{"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "7"}]}],
    "unknown": [{"frage": "Warum?", "antwort": "Darum."}],
    "crlf": [{"question": "A\r\nB?", "answer": "C\x00D", "source": "the web"}],
}
PAIRS: dict[str, list[Any]] = {
    "orca": [{"system": "Be kind.", "question": "Fruit?", "chosen": "Plum.", "rejected": "Door."}],
    "crlf": [
        {
            side: transcript("Fruit of \N{PEAR}?", answer).replace("\n", "\r\n")
            for side, answer in (("chosen", "Pear."), ("rejected", "Ear."))
        }
    ],
    "contradicting": [pair_row("Tea?", "Yes.", "No."), pair_row("Tea?", "No.", "Yes.")],
}


def add(workspace: Workspace, use: str, files: dict[str, list[Any]]) -> None:
    for name, rows in files.items():
        write_lines(workspace.raw / use / "1" / f"{name}.jsonl", rows)


def with_both(make_settings: Make, **data: Any) -> Settings:
    sources = {use: ["starter", "path:mine"] for use in ("sft", "preferences")}
    return make_settings(max_prompt_tokens=300, max_response_tokens=300, **sources, **data)


def test_what_is_learnt_is_what_was_written(
    workspace: Workspace, make_settings: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    add(workspace, "sft", DEMONSTRATIONS)
    add(workspace, "preferences", PAIRS)
    prepare(with_both(make_settings), workspace)

    def mine(table: str) -> dict[str, Any]:
        frame = read_table(workspace, table)
        frame = frame[frame["source"].str.startswith("1/")]
        return {row["source"].split("/")[1].split(".")[0]: row for _, row in frame.iterrows()}

    dialogues = mine("sft")
    expected = {
        "sharegpt": ["You are a sailor.", "Which tag, <i> or <em>?", CODE],
        "dolly": ["Who?\n\nBy M. Arden.", "M. Arden.  "],
        "completions": ["Where do otters sleep?", "In the water."],
        "crlf": ["A\nB?", "CD"],
    }
    assert {
        name: [message["content"] for message in json.loads(row["messages"])]
        for name, row in dialogues.items()
    } == expected
    for name, row in dialogues.items():
        pairs = zip(row["input_ids"], row["loss_mask"], strict=True)
        learnt = tokenizer.decode([token for token, is_learnt in pairs if is_learnt])
        assert learnt == expected[name][-1] + "<|im_end|>"

    pairs = mine("preferences")
    orca = pairs["orca"]
    assert [message["role"] for message in json.loads(orca["messages"])] == ["system", "user"]
    assert (orca["chosen"], orca["rejected"]) == ("Plum.", "Door.")
    assert tokenizer.decode(pairs["crlf"]["rejected_ids"]) == "Ear.<|im_end|>"

    summary, details = summary_of(workspace), read_json(workspace.details("prepare"))
    assert summary["sft_dropped_tool_use"] == summary["sft_dropped_unknown_shape"] == 1
    assert "columns antwort, frage; data.columns maps them" in json.dumps(details["hints"])
    # changes, lost columns and contradictions are counted
    assert summary["sft_changed_line_ends"] == summary["sft_changed_unusable_characters"] == 1
    assert details["changes"]["sft: 1/crlf.jsonl"]["line_ends"] == {
        "rows": 1,
        "line": 1,
        "before": "A\r\nB?",
        "after": "A\nB?",
    }
    assert details["columns_not_read"]["sft: 1/crlf.jsonl"] == {"source": 1}
    assert summary["preferences_contradicting"] == 2


def test_cleaning_is_a_choice_and_is_counted(workspace: Workspace, make_settings: Make) -> None:
    add(workspace, "sft", DEMONSTRATIONS)
    add(workspace, "preferences", PAIRS)
    settings = with_both(
        make_settings,
        cleaning=["html", "blanks"],
        columns={"question": "frage", "answer": "antwort"},
    )
    prepare(settings, workspace)
    frame = read_table(workspace, "sft")
    by_source = {row["source"]: json.loads(row["messages"]) for _, row in frame.iterrows()}
    tagged = by_source["1/sharegpt.jsonl:1"]
    assert tagged[1]["content"] == "Which tag,  or ?"
    assert by_source["1/unknown.jsonl:1"][-1] == {"role": "assistant", "content": "Darum."}
    summary = summary_of(workspace)
    assert summary["sft_changed_html"] == 1 and summary["sft_changed_blanks"] == 2
    assert "sft_changed_characters" not in summary


def test_a_refusal_says_how_to_mend_the_row(workspace: Workspace, make_settings: Make) -> None:
    add(workspace, "sft", {"unknown": DEMONSTRATIONS["unknown"]})
    add(workspace, "preferences", PAIRS)
    message = r"^mine/unknown\.jsonl:1: unknown_shape in data\.sft \(columns antwort, frage; data\.columns"
    with pytest.raises(DataError, match=message):
        prepare(with_both(make_settings, broken="refuse"), workspace)


def test_nulls_of_parquet_are_as_absent(workspace: Workspace, make_settings: Make) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]},
        {"prompt": "C?", "chosen": "D.", "rejected": "E."},
    ]
    for use in ("sft", "preferences"):
        folder = workspace.raw / use / "1"
        folder.mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / "VALIDATION.parquet")
    prepare(with_both(make_settings), workspace)
    frame = read_table(workspace, "sft")
    mine = frame[frame["source"].str.startswith("1/")]
    assert set(mine["split"]) == {"validation"} and len(mine) == 2
    assert summary_of(workspace)["preferences_dropped_not_a_pair"] == 1


def test_contradictions_by_hand() -> None:
    def made(question: str, chosen: str, rejected: str) -> Pair:
        return Pair((Message("user", question),), chosen, rejected)

    pairs = [made("a", "x", "y"), made("a", "y", "x"), made("b", "y", "x"), made("a", "x", "z")]
    assert contradictions(pairs) == 2
    assert contradictions(pairs[1:]) == contradictions([]) == 0
