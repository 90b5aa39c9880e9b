"""What prepare says of rows that are dropped, shortened or beyond a limit."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_files import pair_row, replace_raw, summary_of, write_lines

from rlhf.batches.tables import read_table
from rlhf.common.errors import DataError
from rlhf.common.files import read_json
from rlhf.data import encode
from rlhf.data.load import name_of
from rlhf.data.prepare import prepare
from rlhf.data.tables import SPLITS
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Make = Callable[..., Settings]


def test_files_of_one_name_from_two_addresses_are_told_apart(
    workspace: Workspace, make_settings: Make
) -> None:
    replace_raw(workspace, "sft", train=[pair_row(f"Question {i}", "yes") for i in range(60)])
    write_lines(workspace.raw / "sft" / "1" / "train.jsonl", [pair_row("Another", "yes"), "{"])
    prepare(make_settings(sft=["starter", "path:more"], broken="drop"), workspace)
    summary = summary_of(workspace)
    assert (
        summary["sft/1/train.jsonl/not_json"] == 1
        # people read the path that they gave
        and "more/train.jsonl:2 not_json" in summary["broken_first"]
    )
    assert (
        sum(value for key, value in summary.items() if key.startswith("sft/0/train.jsonl.gz/"))
        == 60
    )
    sources = read_table(workspace, "sft")["source"]
    assert sum(sources.str.startswith("1/train.jsonl:")) == 1


def test_messages_name_files_by_the_path_that_was_given(
    workspace: Workspace, make_settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """And a row that several uses have is named once."""
    pairs = [pair_row(f"Question {i}", "yes") for i in range(60)]
    for use in ("sft", "prompts"):
        # as `fetch` leaves it
        write_lines(workspace.raw / use / "1" / "data" / "x.jsonl", [*pairs, "{", "{"])
        write_lines(workspace.raw / use / "2" / "y.jsonl", ["{"])
    added = ["starter", "path:../mine/data", "path:~/y.jsonl"]
    settings = make_settings(sft=added, prompts=added, broken="refuse")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataError, match=r"^\.\./mine/data/x\.jsonl:61: not_json") as refused,
    ):
        prepare(settings, workspace)
    assert ("(and 2 more: ../mine/data/x.jsonl:62 not_json; ~/y.jsonl:1 not_json)") in str(
        refused.value
    )
    told = [line for line in caplog.messages if line.startswith("broken rows")]
    assert len(told) == 1 and told[0].startswith("broken rows: 3, for example ../mine/data/x.jsonl")
    assert "1/data" not in told[0]


@pytest.mark.parametrize(
    ("address", "file", "name"),
    [
        ("path:data", "data/x.jsonl", "data/x.jsonl"),
        ("path:./data/", "data/sub/x.jsonl", "data/sub/x.jsonl"),
        ("path:.", "x.jsonl", "x.jsonl"),
        ("path:.", "sub/x.jsonl", "sub/x.jsonl"),
        ("path:x.jsonl", "x.jsonl", "x.jsonl"),
        ("path:${HOME}/x.jsonl", "me/x.jsonl", "${HOME}/x.jsonl"),
        ("path:/x.jsonl", "x.jsonl", "/x.jsonl"),
        ("hub:people/talk@v1", "data/train.jsonl", "hub:people/talk@v1/data/train.jsonl"),
        ("starter", "pairs.jsonl", "starter/pairs.jsonl"),
    ],
)
def test_the_name_of_a_file_begins_with_what_the_settings_call_it(
    address: str, file: str, name: str
) -> None:
    assert name_of(address, file, only=False) == name
    # alone, a source names its files itself
    assert name_of(address, file, only=True) == (name if "path" in address else file)


def test_the_log_tells_what_each_table_lost_and_which_setting_is_at_fault(
    workspace: Workspace, make_settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    short = [pair_row(f"Question {i}", "yes") for i in range(60)]
    long = [pair_row(f"Long {i} " + 200 * "word ", "yes") for i in range(30)]
    replace_raw(workspace, "sft", train=short + long)
    with caplog.at_level(logging.INFO, logger="rlhf"):
        prepare(make_settings(broken="drop"), workspace)
    (line,) = (text for text in caplog.messages if text.startswith("sft: t"))
    assert "; dropped: prompt_too_long 30" in line
    assert "over data.max_prompt_tokens" in caplog.text
    # nor a word of a list that is empty
    assert not [text for text in caplog.messages if text.startswith("steps")]


def test_what_the_template_changes_is_told_with_an_example(
    workspace: Workspace,
    make_settings: Make,
    base_model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As blanks at the ends of turns, in the first row of each list that has them."""
    base = workspace.model("base")
    base.unlink()
    shutil.copytree(base_model, base)
    template = base / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("message['content']", "(message['content'] | trim)"))
    rows = [pair_row(f"Question {i}" + " " * (i % 2), "yes") for i in range(60)]
    replace_raw(workspace, "sft", train=rows)
    with caplog.at_level(logging.INFO, logger="rlhf"):
        prepare(make_settings(), workspace)
    summary = summary_of(workspace)
    assert summary["sft_prompt_rewritten"] == 30 and summary["sft_response_rewritten"] == 0
    (line,) = (text for text in caplog.messages if text.startswith("sft: t"))
    assert "; kept with: prompt_rewritten 30; prompt_rewritten as in " in line
    shown = read_json(workspace.details("prepare"))["rewritten"]["sft: prompt_rewritten"]
    assert shown in line and re.fullmatch(
        r"as in .*train\.jsonl\.gz:\d+: '.*Question \d+ <.*' became '.*Question \d+<.*'", shown
    )


def test_half_a_character_is_a_broken_row(workspace: Workspace, make_settings: Make) -> None:
    whole = json.dumps(
        {
            "messages": [
                {"role": "user", "content": "hi \U0001f600"},
                {"role": "assistant", "content": "y"},
            ]
        }
    )
    half = whole.replace("\\ude00", "")
    assert "\\ud83d" in half and half != whole
    replace_raw(
        workspace,
        "sft",
        train=[*(pair_row(f"Question {i}", "yes") for i in range(60)), whole, half],
    )
    with pytest.raises(DataError, match=r"train\.jsonl\.gz:62: half_a_character in data\.sft"):
        prepare(make_settings(broken="refuse"), workspace)
    prepare(make_settings(broken="drop"), workspace)
    assert (
        summary_of(workspace)["sft_dropped_half_a_character"]
        == summary_of(workspace)["broken"]
        == 1
    )


def test_a_file_that_cannot_be_unpacked_is_no_row(
    workspace: Workspace, make_settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    replace_raw(workspace, "sft", train=[pair_row(f"Question {i}", "yes") for i in range(60)])
    torn = workspace.raw / "sft" / "0" / "more.csv.zst"
    torn.write_bytes(b"frage;antwort")
    prepare(make_settings(), workspace)
    summary = summary_of(workspace)
    assert (summary["files_not_read"], summary["broken"]) == (1, 0)
    assert not [key for key in summary if key.startswith("sft/more.csv.zst/")]
    told = read_json(workspace.details("prepare"))["files_not_read"]["sft: more.csv.zst"]
    assert "not packed as its name says" in told
    assert "data.sft: more.csv.zst is not read: not packed as its name says" in caplog.text

    with pytest.raises(DataError, match=r"more\.csv\.zst: in data\.sft: not packed"):
        prepare(make_settings(broken="refuse"), workspace)
    # where there is no other file nothing is left to go on with
    replace_raw(workspace, "sft")
    with pytest.raises(DataError, match=r"more\.csv\.zst: not packed as its name says"):
        prepare(make_settings(), workspace)


BROKEN = [
    "{not json",
    pair_row("A?", "same", "same "),
    pair_row("B?", ""),
    pair_row("C? <|im_end|>", "y"),
    pair_row("D? " * 100, "y"),
    {"text": "plain"},
]


REASONS = [
    "not_json",
    "chosen_equals_rejected",
    "empty_answer",
    "special_token",
    "prompt_too_long",
    "not_a_pair",
]


def good_pairs() -> list[dict[str, Any]]:
    return [pair_row(f"Number {i}", f"yes {i}") for i in range(120)]


def test_broken_rows_are_counted_and_named(workspace: Workspace, make_settings: Make) -> None:
    replace_raw(workspace, "preferences", helpful=[*good_pairs(), *BROKEN, good_pairs()[0]])
    prepare(make_settings(), workspace)
    summary, details = summary_of(workspace), read_json(workspace.details("prepare"))
    assert summary["broken"] == len(BROKEN) and summary["dropped"] == len(BROKEN) + 1
    assert all(summary[f"preferences_dropped_{reason}"] == 1 for reason in [*REASONS, "duplicate"])
    found = {(row["use"], row["file"], row["line"], row["reason"]) for row in details["broken"]}
    assert found == {
        ("preferences", "helpful.jsonl.gz", 121 + i, reason) for i, reason in enumerate(REASONS)
    }
    assert "helpful.jsonl.gz:121 not_json" in summary["broken_first"]
    outcomes = details["files"]["preferences: helpful.jsonl.gz"]
    assert (
        sum(outcomes.values()) == 127
        and sum(outcomes[split] for split in SPLITS["preferences"]) == 120
    )


def test_broken_rows_can_be_refused(workspace: Workspace, make_settings: Make) -> None:
    replace_raw(workspace, "preferences", helpful=[*good_pairs(), *BROKEN])
    message = (
        r"helpful\.jsonl\.gz:121: not_json in data\.preferences \(Expecting .* in column 2\) "
        r"\(and 5 more.*`dvc repro -f -s fetch` reads it again"
    )
    with pytest.raises(DataError, match=message):
        prepare(make_settings(broken="refuse"), workspace)
    assert not workspace.prepared.exists() and not workspace.details("prepare").exists()
    assert len(read_json(workspace.failures / "prepare_details.json")["broken"]) == 6
    replace_raw(workspace, "preferences", helpful=[*good_pairs(), good_pairs()[0]])
    # a duplicate is no fault
    prepare(make_settings(broken="refuse"), workspace)


LIMITS = {
    "preferences.train.helpful": 7,
    "preferences.train": 20,
    "preferences.test.harmless": 3,
    "sft.train": 11,
    "pretrain.train": 4,
}


def test_limits_keep_the_first_of_the_same_order(
    workspace: Workspace, make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_prompt_tokens": 40, "max_response_tokens": 300}
    prepare(make_settings(**settings), workspace)
    whole = {name: read_table(workspace, name) for name in SPLITS}
    # limits count rows that fit
    assert summary_of(workspace)["preferences_dropped_prompt_too_long"] > 20

    def first(count: int, table: str, split: str, kind: str | None) -> list[str]:
        frame = whole[table][whole[table]["split"] == split]
        return list((frame if kind is None else frame[frame["kind"] == kind])["id"].head(count))

    accounts = []
    for chunk in (1024, 5):
        monkeypatch.setattr(encode, "CHUNK", chunk)
        prepare(make_settings(**settings, limits=LIMITS), workspace)
        accounts.append((summary_of(workspace), read_json(workspace.details("prepare"))))
        for table, split, kind, count in (
            ("preferences", "train", "helpful", 7),
            ("preferences", "train", "harmless", 13),
            ("preferences", "test", "harmless", 3),
            ("preferences", "test", "helpful", 1000),
            ("sft", "train", None, 11),
            ("pretrain", "train", None, 4),
        ):
            kept = read_table(workspace, table, split=split, kind=kind)
            assert list(kept["id"]) == first(count, table, split, kind)
        assert len(read_table(workspace, "preferences", split="train")) == 20
    # how many rows are tokenised at once leaves no trace
    assert accounts[0] == accounts[1]


def test_long_answers_are_cut_or_dropped_and_counted(
    workspace: Workspace, make_settings: Make
) -> None:
    pairs = good_pairs()
    pairs[0]["rejected"] = "word " * 60
    pairs[1]["chosen"], pairs[1]["rejected"] = "word " * 60 + "a", "word " * 60 + "b"
    replace_raw(workspace, "preferences", helpful=pairs)
    replace_raw(workspace, "sft", helpful=pairs)
    prepare(make_settings(max_response_tokens=16), workspace)
    summary = summary_of(workspace)
    assert (summary["preferences_rejected_truncated"], summary["preferences_chosen_truncated"]) == (
        1,
        0,
    )
    assert summary["preferences_dropped_equal_once_cut"] == 1  # nothing is left to prefer
    assert summary["sft_response_truncated"] == 1
    assert max(read_table(workspace, "preferences")["rejected_ids"].map(len)) == 16
    prepare(make_settings(max_response_tokens=16, long_responses="drop"), workspace)
    summary = summary_of(workspace)
    assert (
        summary["preferences_dropped_long_response"],
        summary["sft_dropped_long_response"],
        summary["broken"],
    ) == (2, 1, 0)
