"""What `rlhf doctor --data` counts and refuses is what `prepare` keeps and refuses."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run

from rlhf.batches.tables import read_table
from rlhf.commands.data_check import DataReport, inspect_data
from rlhf.common.errors import DataError
from rlhf.common.yaml import parse_yaml, write_yaml
from rlhf.data.prepare import prepare
from rlhf.data.sources import FetchRequest, find_source
from rlhf.data.uses import USES, addresses, raw_directory
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, trained: Workspace) -> Workspace:
    """A clone with a base model."""
    made = Workspace(tmp_path)
    made.model("base").parent.mkdir()
    made.model("base").symlink_to(trained.model("policy"))
    return made


def pairs(count: int, **beside: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Q {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}.", **beside}
        for n in range(count)
    ]


def write(workspace: Workspace, name: str, rows: Sequence[Any]) -> None:
    """JSON lines; a text is a line as it is."""
    lines = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    (workspace.root / name).write_text(lines, encoding="utf-8")


def with_lists(workspace: Workspace, rows: Sequence[Any], *uses: str, **data: Any) -> Settings:
    """Settings whose lists `uses` have one file of these rows; the others stay."""
    write(workspace, "a.jsonl", rows)
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["data"] |= {use: ["path:a.jsonl"] for use in uses} | {"limits": {}} | data
    (workspace.root / "params.yaml").write_text(write_yaml(content), encoding="utf-8")
    return settings_from(content)


def prepared(settings: Settings, workspace: Workspace) -> dict[str, int]:
    """How many rows of the file `prepare` keeps, by list."""
    shutil.rmtree(workspace.raw, ignore_errors=True)
    for use in USES:
        for index, text in enumerate(addresses(settings, use)):
            source, address = find_source(text)
            directory = raw_directory(workspace.raw, use, index)
            directory.mkdir(parents=True, exist_ok=True)
            source.fetch_data(FetchRequest(address, use, workspace.root, 1), directory)
    prepare(settings, workspace)
    return {table: len(read_table(workspace, table)) for table in ("sft", "preferences")}


def report_of(settings: Settings, workspace: Workspace) -> DataReport:
    return inspect_data(str(workspace.root / "a.jsonl"), settings, workspace)


def test_a_row_that_one_list_cannot_take_is_kept_by_the_others(workspace: Workspace) -> None:
    rows = [*pairs(10), *pairs(20, rejected="No <|im_end|>")[10:], *pairs(21, rejected=" ")[20:]]
    settings = with_lists(workspace, rows, "sft")
    report = report_of(settings, workspace)
    assert report.serves["sft"] == report.usable == 20
    assert report.lost == {}
    assert prepared(settings, workspace)["sft"] == 20

    # a list of pairs has their other side
    settings = with_lists(workspace, rows, "sft", "preferences")
    report = report_of(settings, workspace)
    assert (report.serves["sft"], report.serves["preferences"]) == (20, 10)
    assert report.lost == {"preferences": {"special_token": 10}}
    assert prepared(settings, workspace) == {"sft": 20, "preferences": 10}


def test_rows_that_a_list_has_no_use_for_are_lost_to_it(workspace: Workspace) -> None:
    # an id or a source is no answer
    unread = {"source": "me", "loser": "Who knows?"}
    rows = [*pairs(5), {"prompt": "Why?", "completion": "So.", **unread}]
    report = report_of(with_lists(workspace, rows, "preferences"), workspace)
    # no list keeps it, which is told once
    assert report.lost == {}
    (dropped,) = report.dropped
    assert dropped.reason == "not_a_pair" and dropped.hint.endswith(" not read: loser")
    # it is shown all the same
    assert {row.shape for row in report.shown} == {
        "pair (chosen, rejected)",
        "dialogue (prompt, completion)",
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"prompt": ', "not_json"),
        ({"prompt": "Why <|im_end|>?", "completion": "So."}, "special_token"),
        ({"prompt": "Why?"}, "not_ending_with_assistant"),
    ],
)
def test_a_broken_row_is_refused_where_prepare_refuses_it(
    bad: Any, reason: str, workspace: Workspace
) -> None:
    # nothing is broken in the other lists
    write(workspace, "b.jsonl", pairs(40))
    others = {use: ["path:b.jsonl"] for use in ("preferences", "prompts", "evaluation")}
    settings = with_lists(workspace, [*pairs(20), bad], "sft", broken="refuse", **others)
    (told,) = report_of(settings, workspace).refused
    assert told.startswith(f"{workspace.root}/a.jsonl:21: {reason} (data.broken: drop")
    with pytest.raises(DataError, match=rf"a\.jsonl:21: {reason} in data\.sft"):
        prepared(settings, workspace)
    file = workspace.root / "a.jsonl"
    code, output = run("doctor", "--data", str(file), root=workspace.root)
    assert code == 1 and f"prepare stops: {file}:21: {reason}" in output
    several = report_of(with_lists(workspace, "{{{", "sft", broken="refuse"), workspace).refused
    assert ":1: not_json, and 2 more (data.broken" in several[-1]
    # as the settings have it else
    assert report_of(with_lists(workspace, [*pairs(20), bad], "sft"), workspace).refused == []


@pytest.mark.parametrize(
    ("use", "rows", "told"),
    [
        ("sft", pairs(1), ["data.sft: no rows left for"]),
        ("preferences", pairs(2), ["data.preferences: no rows left for"]),
        ("prompts", pairs(1), ["data.prompts: no rows left for"]),
        # a single text is cut in two, and of an evaluation each row is tested on
        ("pretrain", [{"text": "It rains. " * 20}], []),
        ("evaluation", pairs(1), []),
        ("sft", pairs(12), []),
    ],
)
def test_a_list_that_would_be_empty_is_told(
    use: str, rows: list[Any], told: list[str], workspace: Workspace
) -> None:
    settings = with_lists(workspace, rows, use)
    report = report_of(settings, workspace)
    assert len(report.refused) >= len(told) and bool(report.refused) == bool(told)
    if told:
        assert report.refused[0].startswith(told[0])
        with pytest.raises(DataError, match=rf"data\.{use}: no rows left for"):
            prepared(settings, workspace)
    else:
        prepared(settings, workspace)
    # another address may give what is missing
    several = with_lists(workspace, rows, **{use: ["path:a.jsonl", "starter"]})
    assert report_of(several, workspace).refused == []


SAME = [{"prompt": "Why?", "chosen": f"So {n}.", "rejected": "No."} for n in range(30)]


@pytest.mark.parametrize(
    ("use", "name", "rows", "told"),
    [
        ("sft", "test_data.jsonl", pairs(30), "the name of {} makes all rows test rows: another"),
        ("prompts", "test_data.jsonl", pairs(30), "the name of {} makes all rows test rows"),
        ("preferences", "dev.jsonl", pairs(30), "the name of {} makes all rows validation rows"),
        ("sft", "mine.jsonl", SAME, "all 30 rows open with the same first question, and rows that"),
        (
            "preferences",
            "mine.jsonl",
            [*SAME, *pairs(1)],
            "all 31 rows open with 2 first questions",
        ),
        # nor is that so where another thing is the matter
        ("sft", "mine.jsonl", pairs(1), "more rows"),
    ],
)
def test_what_leaves_a_split_empty_is_told(
    use: str, name: str, rows: list[Any], told: str, workspace: Workspace
) -> None:
    file = workspace.root / name
    write(workspace, name, rows)
    settings = with_lists(workspace, rows, **{use: [f"path:{name}"]})
    refused = inspect_data(str(file), settings, workspace).refused
    expected = rf"data\.{use}: no rows left for \w+; {re.escape(told)}"
    assert re.match(expected.replace(r"\{\}", re.escape(str(file))), refused[0])
    with pytest.raises(DataError, match=expected.replace(r"\{\}", re.escape(name))):
        prepared(settings, workspace)


def test_a_file_that_stops_prepare_stops_the_doctor(workspace: Workspace) -> None:
    settings = with_lists(workspace, [], "sft")
    mine = workspace.root / "mine"
    mine.mkdir()
    (mine / "a.jsonl").write_text(json.dumps(pairs(1)[0]) + "\n", encoding="utf-8")
    (mine / "picture.json").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    # a file of which no row can be read is left out
    assert inspect_data(str(mine), settings, workspace).refused == []
    (mine / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    torn = f"{mine}/torn.parquet: not read, or not to its end"
    assert inspect_data(str(mine), settings, workspace).refused == [torn]
    refusing = with_lists(workspace, [], "sft", broken="refuse")
    picture = f"{mine}/picture.json: not read, or not to its end"
    assert inspect_data(str(mine), refusing, workspace).refused == [picture, torn]
