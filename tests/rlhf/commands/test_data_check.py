"""What `rlhf doctor --data` tells of files, rows and tokens."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run

from rlhf.commands.data_check import DataReport, address_of, inspect_data
from rlhf.commands.data_view import visible
from rlhf.common.errors import SettingsError, SourceError
from rlhf.common.yaml import parse_yaml
from rlhf.data.assign import assign_splits
from rlhf.data.ledger import Ledger
from rlhf.data.load import load_rows
from rlhf.data.records import Row
from rlhf.data.split import candidates
from rlhf.data.tables import SPLITS
from rlhf.data.uses import USES
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Where is the sun?"},
        {"from": "gpt", "value": "Behind\x1b[2J a cloud."},
        {"from": "human", "value": "And now?"},
        {"from": "gpt", "value": "Over the hill."},
    ]
}
DOLLY = {"instruction": "Name it.", "context": "A river.", "response": "Elbe.", "category": "qa"}
OPEN_BRACE = (
    "Expecting property name enclosed in double quotes in column 2; one object a line, or name the "
    "file .json"
)
PAIR = {"question": "Two or three?", "chosen": "Three.", "rejected": "Two."}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A clone before any stage."""
    (tmp_path / "params.yaml").write_text(preset_text("tiny"), encoding="utf-8")
    return Workspace(tmp_path)


@pytest.fixture
def fetched(workspace: Workspace, trained: Workspace) -> Workspace:
    """The same with a base model."""
    workspace.model("base").parent.mkdir()
    workspace.model("base").symlink_to(trained.model("policy"))
    return workspace


def write(path: Path, *rows: Any) -> Path:
    """JSON lines; a text is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def tiny(**data: Any) -> Settings:
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["data"] |= data
    return settings_from(content)


def inspect(workspace: Workspace, place: Path | str, **data: Any) -> DataReport:
    return inspect_data(str(place), tiny(**data), workspace)


def marked(report: DataReport, number: int = 0) -> list[str]:
    """The passages of a shown row, with brackets around what is trained on."""
    return [
        "".join(f"[{text}]" if trained else text for text, trained in passage.parts)
        for passage in report.shown[number].passages
    ]


def test_shapes_are_counted_and_faults_named_by_line(workspace: Workspace) -> None:
    mine = workspace.root / "mine"
    write(mine / "a.jsonl", SHAREGPT, "{", DOLLY, DOLLY, {"colour": "red"}, {"colour": "blue"})
    write(mine / "test.jsonl", PAIR, {**PAIR, "chosen": " "})
    (mine / "sheet.xlsx").write_bytes(b"PK")
    report = inspect(workspace, mine)

    assert [(file.name, file.format, file.rows, file.split) for file in report.files] == [
        (f"{mine}/a.jsonl", "JSON lines", 6, ""),
        (f"{mine}/test.jsonl", "JSON lines", 2, "test"),
    ]
    assert report.unread == ["sheet.xlsx"]
    assert report.shapes == {
        "dialogue (instruction, response)": 2,
        "dialogue (conversations)": 1,
        "pair (chosen, rejected)": 1,
    }
    assert report.usable == 3
    assert {use: rows for use, rows in report.serves.items() if rows} == {
        "sft": 3,
        "preferences": 1,
        # what was published as a test is no prompt of PPO, and all that is evaluated on
        "prompts": 2,
        "evaluation": 1,
    }
    # of rows that another list keeps
    assert report.listed == [] and report.lost == {
        "prompts": {"published_split_not_used": 1},
        "evaluation": {"published_split_not_used": 2},
    }
    dropped = {one.reason: (one.rows, one.example, one.hint) for one in report.dropped}
    assert dropped == {
        "not_json": (1, f"{mine}/a.jsonl:2", OPEN_BRACE),
        "duplicate": (1, f"{mine}/a.jsonl:4", ""),
        "unknown_shape": (2, f"{mine}/a.jsonl:5", "columns colour; data.columns maps them"),
        "empty_answer": (1, f"{mine}/test.jsonl:2", ""),
    }
    # what a shape does not read, and what was changed
    assert any("columns that are not read: category (2 rows)" in line for line in report.told)
    assert any("unusable_characters in 1 row, as in line 1" in line for line in report.told)


def test_rows_that_splits_and_duplicates_take_away_are_not_counted(workspace: Workspace) -> None:
    """Of one file for everything, by the numbers that prepare comes to."""
    file = write(
        workspace.root / "all.jsonl",
        *({"question": f"Q {n}?", "chosen": f"Yes {n}.", "rejected": "No."} for n in range(40)),
        # the same prompt with another answer
        *({"question": f"Q {n}?", "chosen": f"Sure {n}.", "rejected": "No."} for n in range(3)),
        "{",
    )
    uses = ("sft", "preferences", "prompts", "evaluation")
    lists = {use: [f"path:{file}"] for use in uses}
    fractions = {"test_fraction": 0.2, "validation_fraction": 0.1}
    report = inspect(workspace, f"path:{file}", **lists, **fractions)
    assert report.listed == list(uses)

    # what prepare does
    settings = tiny(**lists, **fractions)
    directory = workspace.root / "raw"
    write(directory / "all.jsonl", *file.read_text().splitlines())
    ledger = Ledger()
    rows: dict[str, list[Row]] = {use: [] for use in USES}
    rows |= {use: [*load_rows(directory, use, 0, ledger)] for use in uses}
    assignment = assign_splits(rows, settings.data, settings.seed)
    tables = {table: candidates(table, rows, assignment, ledger) for table in SPLITS}
    kept = Counter(one.row.use for found in tables.values() for one in found)
    assert {use: report.serves[use] for use in uses} == {use: kept[use] for use in uses}
    assert report.serves["prompts"] + report.serves["evaluation"] == 40
    assert 0 < report.serves["evaluation"] < 20
    lost = report.lost["prompts"]
    assert lost["duplicate"] + lost["opening_in_test"] + report.serves["prompts"] == 43
    assert report.usable == 43
    # the settings may call it otherwise
    lists = {use: ["path:./all.jsonl"] for use in uses}
    assert inspect(workspace, file, **lists, **fractions).serves == report.serves
    assert [(one.reason, one.rows) for one in report.dropped] == [("not_json", 1)]


def test_before_a_base_model_rows_are_messages(workspace: Workspace) -> None:
    file = write(workspace.root / "mine" / "a.jsonl", SHAREGPT, PAIR, {"text": "Rain."})
    report = inspect(workspace, file)
    assert not report.encoded
    assert marked(report) == [
        "Where is the sun?",
        "[Behind[2J a cloud.]",
        "And now?",
        "[Over the hill.]",
    ]
    assert marked(report, 1) == ["Two or three?", "[Three.]", "[Two.]"]
    assert marked(report, 2) == ["[Rain.]"]


def test_with_one_they_are_the_tokens_of_its_template(fetched: Workspace) -> None:
    steps = {"prompt": "2 + 2 + 2", "steps": ["4", "6"], "labels": [True, True]}
    turns = {"prompt": "Sing."}
    file = write(fetched.root / "mine" / "a.jsonl", SHAREGPT, PAIR, steps)
    report = inspect(fetched, file, max_prompt_tokens=128)
    assert report.encoded and report.usable == 3
    start, end = "<|im_start|>", "<|im_end|>"
    assert marked(report) == [
        f"{start}user\nWhere is the sun?{end}\n{start}assistant\n[Behind[2J a cloud.{end}]\n"
        f"{start}user\nAnd now?{end}\n{start}assistant\n[Over the hill.{end}]"
    ]
    asked = f"{start}user\nTwo or three?{end}\n{start}assistant\n"
    assert marked(report, 1) == [f"{asked}[Three.{end}]", f"{asked}[Two.{end}]"]
    assert marked(report, 2) == [
        f"{start}user\n2 + 2 + 2{end}\n{start}assistant\n[4\n6{end}]",
    ]
    # nothing of a prompt is trained on, all of a plain text is
    report = inspect(fetched, write(fetched.root / "b.jsonl", turns, {"text": " Rain."}))
    assert marked(report) == [f"{start}user\nSing.{end}\n{start}assistant\n"]
    assert marked(report, 1) == ["[ Rain.]"]


def test_rows_that_do_not_fit_the_template_or_the_window_are_counted(fetched: Workspace) -> None:
    long = "word " * 200
    file = write(
        fetched.root / "a.jsonl",
        {"prompt": long, "completion": "x"},
        {"prompt": "say <|im_end|>", "completion": "x"},
        {"prompt": "say it", "completion": long},
    )
    report = inspect(fetched, file, max_prompt_tokens=48, max_response_tokens=16)
    found = {one.reason: one.example.rpartition(":")[2] for one in report.dropped}
    assert found == {"prompt_too_long": "1", "special_token": "2"}
    assert report.usable == 1 and report.notes == {"response_truncated": 1}
    hints = {one.reason: one.hint for one in report.dropped}
    assert "over data.max_prompt_tokens" in hints["prompt_too_long"]


def test_notes_name_the_setting_at_fault(fetched: Workspace) -> None:
    messages = [{"role": role, "content": "word " * 8} for role in ("user", "assistant") * 3]
    write(fetched.root / "a.jsonl", {"messages": messages})
    code, output = run("doctor", "--data", str(fetched.root / "a.jsonl"), root=fetched.root)
    assert code == 0
    assert "prompt_shortened: 1 row (over data.max_prompt_tokens: the oldest exch" in output


def test_what_the_template_changes_is_told_with_an_example(
    workspace: Workspace, trained: Workspace
) -> None:
    base = Path(shutil.copytree(trained.model("policy"), workspace.model("base")))
    template = base / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("m.content", "(m.content | trim)"))
    write(workspace.root / "a.jsonl", {"prompt": "Sing", "completion": "La"}, PAIR)
    file = write(workspace.root / "b.jsonl", {"prompt": "Sing ", "completion": " La"})
    assert inspect(workspace, workspace.root / "a.jsonl").notes == {}
    assert inspect(workspace, file).notes == {"prompt_rewritten": 1, "response_rewritten": 1}
    code, output = run("doctor", "--data", str(file), root=workspace.root)
    assert code == 0
    place = f"as in {file}:1: "
    assert f"response_rewritten: 1 row, {place}' La<|im_end|>' became 'La<|im_end|>' (" in output
    assert re.search(rf"prompt_rewritten: 1 row, {place}'.*Sing <.*' became '.*Sing<.*' \(", output)


def test_one_row_of_each_shape_comes_before_the_second_of_any(workspace: Workspace) -> None:
    prompts = [{"prompt": f"Question {number}"} for number in range(4)]
    file = write(workspace.root / "a.jsonl", *prompts, {"text": "Rain."})
    lines = [row.place.rpartition(":")[2] for row in inspect(workspace, file).shown]
    assert lines == ["1", "5", "2"]


def test_columns_are_mapped_as_the_settings_say(workspace: Workspace) -> None:
    file = write(workspace.root / "a.jsonl", {"frage": "Wer?", "antwort": "Ich.", "nr": 3})
    assert [one.reason for one in inspect(workspace, file).dropped] == ["unknown_shape"]
    columns = {"prompt": "frage", "completion": "antwort", "system": "rolle"}
    report = inspect(workspace, file, columns=columns)
    assert report.shapes == {"dialogue (prompt, completion)": 1}
    assert marked(report) == ["Wer?", "[Ich.]"] and report.unmapped == ["system"]
    with pytest.raises(SettingsError, match=r"data\.columns\.promt: unknown"):
        inspect(workspace, file, columns={"promt": "frage"})


def test_odd_files(workspace: Workspace) -> None:
    mine = workspace.root / "mine"
    write(mine / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\n")
    write(mine / "empty.jsonl")
    write(mine / "list.jsonl", json.dumps([DOLLY, {"text": "Rain."}]))
    (mine / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    (mine / "picture.json").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    report = inspect(workspace, mine)
    found = {Path(file.name).name: file for file in report.files}
    assert (found["bom.jsonl"].rows, found["empty.jsonl"].rows) == (1, 0)
    assert (found["list.jsonl"].format, found["list.jsonl"].rows) == ("JSON", 2)
    # the other files are read all the same
    assert "torn.parquet: not readable as parquet" in found["torn.parquet"].fault
    assert "picture.json: not text but binary" in found["picture.json"].fault
    assert report.usable == 3 and report.dropped == []


def test_sources_of_all_kinds_are_looked_at(workspace: Workspace) -> None:
    starter = inspect(workspace, "starter")
    assert starter.shapes.keys() == {"pair (chosen, rejected)"}
    # made for the use that the settings have it for
    for use, served in (("steps", {"solution (steps, labels)"}), ("sft", {"dialogue (messages)"})):
        found = inspect(workspace, "additions:5", **{use: ["additions:5"]}).shapes
        assert found.keys() == served
    assert not (workspace.root / "data").exists()


def test_files_are_named_by_the_path_that_was_asked_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(workspace.root / "mine" / "deep" / "a.jsonl", "{", PAIR)
    monkeypatch.chdir(workspace.root / "mine")
    monkeypatch.setenv("HOME", str(workspace.root))
    file = "deep/a.jsonl"
    for asked, told in (
        (file, file),
        (f"./{file}", file),
        (f"../mine/{file}", f"../mine/{file}"),
        (f"~/mine/{file}", f"~/mine/{file}"),
        ("deep/", file),
        (".", file),
        # an address begins where params.yaml lies
        ("path:mine/deep", f"mine/{file}"),
        (f"path:mine/{file}", f"mine/{file}"),
        (f"path:${{HOME}}/mine/{file}", f"${{HOME}}/mine/{file}"),
    ):
        report = inspect(workspace, asked)
        assert [one.name for one in report.files] == [told]
        assert report.dropped[0].example == f"{told}:1"
        assert report.shown[0].place == f"{told}:2"


def test_a_bare_name_of_a_file_is_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a$b.jsonl")
    assert address_of("a$b.jsonl") == f"path:{tmp_path}/a$$b.jsonl"
    assert address_of("hub:people/talk@v1") == "hub:people/talk@v1"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("path:nowhere", "nowhere does not exist"),
        ("nowhere.jsonl", "neither a file or directory here nor an address"),
        ("path:folder", "no data files at"),
        ("random:2x64", "this kind of source brings no data"),
        ("hub:people/talk", "expected hub:OWNER/NAME@REVISION"),
    ],
)
def test_what_is_not_there_is_one_message(workspace: Workspace, address: str, told: str) -> None:
    (workspace.root / "folder").mkdir()
    (workspace.root / "folder" / "notes.md").write_text("no data", encoding="utf-8")
    with pytest.raises(SourceError, match=re.escape(told)):
        inspect(workspace, address)


def test_the_command_escapes_and_marks(fetched: Workspace) -> None:
    nasty = {"prompt": "bell\x07 [red]x[/red] \u202egnp", "completion": "a\u009bb\u200e"}
    name = write(fetched.root / "a\x1b[2Jb.jsonl", nasty)
    code, output = run("doctor", "--data", str(name), root=fetched.root)
    assert code == 0
    assert "usable: 1 row; for data.sft 1, prompts 1, evaluation 1" in output
    assert "[red]x[/red]" in output and "\\u202egnp" in output and "⟦ab\\u200e<|im_end|>⟧" in output
    assert not any(sign in output for sign in "\x07\x1b\u202e\u009b")
    assert "a\\x1b[2Jb.jsonl" in output

    code, output = run("doctor", "--json", "--data", f"path:{name}", root=fetched.root)
    assert code == 0 and json.loads(output)["serves"]["sft"] == 1
    code, output = run(
        "doctor", "--data", str(write(fetched.root / "none.jsonl")), root=fetched.root
    )
    assert code == 1 and "none.jsonl: JSON lines, 0 rows" in output and "usable: 0 rows" in output


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("tab\t, bell\x07, zero\u200b, blank\xa0, é中😀\nnext") == (
        "tab\\t, bell\\x07, zero\\u200b, blank\\xa0, é中😀\nnext"
    )
