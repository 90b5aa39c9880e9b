from pathlib import Path

import pytest
from raw_files import write_lines

from rlhf.common.errors import DataError
from rlhf.data.ledger import Ledger
from rlhf.data.load import as_dialogue, as_pair, as_prompt, as_solution, as_text, load_rows
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Prompt, Row, Solution
from rlhf.data.rows import BrokenRow

QUESTION, ANSWER = Message("user", "Why?"), Message("assistant", "Because.")


def test_rows_carry_where_they_come_from_and_the_ledger_the_others(tmp_path: Path) -> None:
    rows = [{"text": "one"}, "{oops", {"prompt": "Why?"}, {"text": "two"}]
    write_lines(tmp_path / "helpful" / "train.jsonl", rows)
    ledger = Ledger()
    loaded = list(load_rows(tmp_path, "pretrain", 1, ledger, only_address=False))
    file = "1/helpful/train.jsonl"
    assert loaded == [
        Row(PlainText("one"), "helpful", "pretrain", 1, file, 1, "train"),
        Row(PlainText("two"), "helpful", "pretrain", 1, file, 4, "train"),
    ]
    broken = [(row.use, row.file, row.line, reason) for row, reason in ledger.broken]
    assert broken == [("pretrain", file, 2, "not_json"), ("pretrain", file, 3, "not_plain_text")]
    assert [row.file for row in load_rows(tmp_path, "pretrain", 0, Ledger())] == [file[2:]] * 2


def test_directories_without_data_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no raw data; run the stage fetch first"):
        list(load_rows(tmp_path / "nowhere", "sft", 0, Ledger()))
    write_lines(tmp_path / ".cache" / "a.jsonl", [{"text": "hidden"}])
    with pytest.raises(DataError, match="no data files"):
        list(load_rows(tmp_path, "sft", 0, Ledger()))


def test_one_record_serves_several_uses() -> None:
    pair = Pair((QUESTION,), "Because.", "No.")
    assert as_dialogue(pair) == Dialogue((QUESTION, ANSWER))
    solution = Solution((QUESTION,), ("Because.",), (1.0,))
    assert as_solution(solution) == solution and as_prompt(solution) == Prompt((QUESTION,))
    assert as_prompt(pair) == as_prompt(Dialogue((QUESTION, ANSWER))) == Prompt((QUESTION,))
    for convert, record, reason in (
        (as_pair, Prompt((QUESTION,)), "not_a_pair"),
        (as_dialogue, Prompt((QUESTION,)), "not_ending_with_assistant"),
        (as_text, pair, "not_plain_text"),
        (as_prompt, PlainText("x"), "not_a_prompt"),
        (as_solution, pair, "not_a_solution"),
        (as_dialogue, solution, "not_a_dialogue"),
        (as_pair, solution, "not_a_pair"),
        (as_text, solution, "not_plain_text"),
    ):
        with pytest.raises(BrokenRow, match=reason):
            convert(record)


def test_a_broken_row_of_two_lists_is_counted_once(tmp_path: Path) -> None:
    row = {"id": "chat-7", "messages": [{"role": "user", "content": "Why?"}], "note": "So it is."}
    write_lines(tmp_path / "a.jsonl", ["{oops", row])
    ledger = Ledger()
    for use in ("sft", "prompts"):
        list(load_rows(tmp_path, use, 0, ledger, "path:a.jsonl"))
    # one is broken for both, the other for one of them
    summary = ledger.summary(frozenset())
    assert len(ledger.broken) == 3 and summary["broken"] == ledger.broken_rows == 2
    # an id is not what the row lacks
    hint = ledger.hints["sft", "a.jsonl", "not_ending_with_assistant"]
    assert hint == "what is missing may stand in a column that is not read: note"
