"""Tables that are text: separators, quotes, names of columns and cells without a value."""

import csv
import json
from pathlib import Path

import pytest
from raw_files import seen, written

from rlhf.common.errors import DataError
from rlhf.data.parse import parse_row
from rlhf.data.read import read_rows
from rlhf.data.records import Message, Pair
from rlhf.data.rows import BrokenRow


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'question,answer\n"Why, then?","So\r\nand so"\nHow?,\n'),
        ("a.csv", 'question;answer\r\n"Why, then?";"So\r\nand so"\r\nHow?;\r\n'),
        ("a.csv", 'question\tanswer\nWhy, then?\t"So\r\nand so"\nHow?\t\n'),
        ("a.TSV", 'question\tanswer\nWhy, then?\t"So\r\nand so"\nHow?\t\n'),
    ],
)
def test_cells_are_what_was_written(name: str, text: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, text.encode("utf-8-sig"))
    assert seen(path) == [
        (2, {"question": "Why, then?", "answer": "So\r\nand so"}),
        (4, {"question": "How?", "answer": ""}),
    ]


def test_cells_that_say_nan_are_as_null(tmp_path: Path) -> None:
    table = written(
        tmp_path / "a.csv", b"question,answer,system\nNaN?,nan is a nut,nan\nWhy?,NaN,\n"
    )
    assert seen(table) == [
        (2, {"question": "NaN?", "answer": "nan is a nut", "system": None}),
        (3, {"question": "Why?", "answer": None, "system": ""}),
    ]


def test_faults_of_tables_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"a,b\n1,2\n3\n4,5,6\n\xe9,7\n")
    cells = "wrong_number_of_cells"
    assert seen(path) == [(2, {"a": "1", "b": "2"}), (3, cells), (4, cells), (5, "not_utf8")]
    open_quote = written(tmp_path / "b.csv", b'a,b\n1,2\n3,"4\n5,6\n')
    with pytest.raises(DataError, match=r"b\.csv:3: not readable as CSV"):
        seen(open_quote)
    with pytest.raises(DataError, match=r"c\.csv:1: two columns of one name: a, a"):
        seen(written(tmp_path / "c.csv", b"a,a\n1,2\n"))


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        # text that begins with a quote, as tab-separated files without any quoting have it
        ('"Hi" she said\tWhat', ['"Hi" she said', "What"]),
        ('"\tinches', ['"', "inches"]),
        # those of a spreadsheet
        ('"a ""word"""\tb', ['a "word"', "b"]),
        ('"a\tb"\td', ["a\tb", "d"]),
        ('"a\nc"\td', ["a\nc", "d"]),
        ('say "so"\t5"', ['say "so"', '5"']),
    ],
)
def test_quotes_in_tab_separated_files(tmp_path: Path, cells: str, read: list[str]) -> None:
    path = written(tmp_path / "a.tsv", f"question\tanswer\n{cells}\nx\ty\n".encode())
    rows = [row for _, row in seen(path)]
    assert rows == [{"question": read[0], "answer": read[1]}, {"question": "x", "answer": "y"}]


def test_blanks_around_the_name_of_a_column_are_no_part_of_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"question, answer \nWhy?, so\n")
    assert [row for _, row in seen(path)] == [{"question": "Why?", "answer": " so"}]
    twice = written(tmp_path / "b.csv", b"a, a\n1,2\n")
    with pytest.raises(DataError, match=r"two columns of one name: a, a"):
        seen(twice)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            '"prompt, with commas, many";completion\nq;a\n',
            ["prompt, with commas, many", "completion"],
        ),
        ('prompt,"a; b; c"\nq,a\n', ["prompt", "a; b; c"]),
        ('"say ""so, so, so""";completion\nq;a\n', ['say "so, so, so"', "completion"]),
        ("prompt|completion\nq|a\n", ["prompt", "completion"]),
    ],
)
def test_separators_within_quotes_of_the_header_are_text(
    text: str, names: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", text.encode())
    assert seen(path) == [(2, dict(zip(names, "qa", strict=True)))]


@pytest.mark.parametrize("text", ['"a"b,c\n1,2\n', '"a,c\n1,2\n'])
def test_a_header_that_is_no_csv_is_told_as_such(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:1: not readable as CSV"):
        seen(written(tmp_path / "a.csv", text.encode()))


def test_a_first_line_may_name_the_separator(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"sep=;\r\nprompt;answer, or so\r\nq;a\r\n")
    assert seen(path) == [(3, {"prompt": "q", "answer, or so": "a"})]


def test_columns_without_a_name_are_called_by_their_place(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b",prompt,\n0,q,x\n")
    one, three = "column 1 without a name", "column 3 without a name"
    assert seen(path) == [(2, {one: "0", "prompt": "q", three: "x"})]


@pytest.mark.parametrize("cell", ["None", "null", "NULL", "NA", "<NA>", "N/A", "n/a", "#N/A"])
def test_cells_without_a_value_are_as_null(cell: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", f"prompt,answer\nq,{cell}\nq,{cell} or so\n".encode())
    assert [row["answer"] for _, row in seen(path)] == [None, f"{cell} or so"]


@pytest.mark.parametrize("bad", ["x", "a\tb\tc", '"Hi" she said'])
def test_one_bad_line_changes_no_other_of_a_tab_separated_file(bad: str, tmp_path: Path) -> None:
    text = f'question\tanswer\n"Hi" she said\tWhat\n{bad}\n"\tinches\n'
    assert [row for _, row in seen(written(tmp_path / "a.tsv", text.encode()))] == [
        {"question": '"Hi" she said', "answer": "What"},
        "wrong_number_of_cells",
        {"question": '"', "answer": "inches"},
    ]
    # nor where quotes hold cells together
    text = f'question\tanswer\n"a\tb"\td\n{bad.replace(chr(34), "")}\nq\t"a\nc"\n'
    assert [row for _, row in seen(written(tmp_path / "b.tsv", text.encode()))] == [
        {"question": "a\tb", "answer": "d"},
        "wrong_number_of_cells",
        {"question": "q", "answer": "a\nc"},
    ]


def test_messages_in_a_cell_are_json_and_no_answer_of_theirs(tmp_path: Path) -> None:
    """As pandas writes UltraFeedback's: an answer that is a list of messages is not learnt as text."""
    sides = [
        [{"content": "Why?", "role": "user"}, {"content": text, "role": "assistant"}]
        for text in ("It's so.", "No.")
    ]

    def table(cells: list[str]) -> Path:
        path = tmp_path / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["prompt", "chosen", "rejected"], ["Why?", *cells]])
        return path

    ((_, row),) = seen(table([json.dumps(side) for side in sides]))
    assert parse_row(row).record == Pair((Message("user", "Why?"),), "It's so.", "No.")
    ((_, broken, _),) = read_rows(table([str(side) for side in sides]))
    assert isinstance(broken, BrokenRow) and broken.reason == "not_json"
    assert broken.detail.startswith(
        "chosen: messages as Python prints them; in a table they are JSON"
    )
    # what merely begins so is text
    texts = ['[{"role": 1}, and so on', "[{'role': 'user'}] is a list"]
    ((_, row),) = seen(table(texts))
    assert [row["chosen"], row["rejected"]] == texts
