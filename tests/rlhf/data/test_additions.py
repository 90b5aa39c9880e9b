"""`additions:ROWS`: a task of which every line can be checked."""

import json
from pathlib import Path
from random import Random

import pytest
from raw_files import fetch_address

from rlhf.common.errors import SourceError
from rlhf.data.load import CONVERSIONS, record_for
from rlhf.data.parse import parse_row
from rlhf.data.records import Dialogue, Pair, Prompt, Solution
from rlhf.data.sources.additions import (
    ROWS,
    Addition,
    draw_addition,
    draw_attempt,
    read_addition,
)

ADDITION = Addition((1, 7), (2, 5))
RIGHT = ["7+5+0=12", "1+2+1=04", "042"]


def test_the_right_lines_by_hand() -> None:
    assert ADDITION.prompt == "17+25"
    assert ADDITION.lines == RIGHT
    assert Addition((3, 2), (3, 3), base=4).lines == ["2+3+0=11", "3+3+1=13", "131"]


@pytest.mark.parametrize(
    ("lines", "verdicts"),
    [
        (RIGHT, [True, True, True]),
        # a wrong carry: what follows from it is right
        (["7+5+0=02", "1+2+0=03", "032"], [False, True, True]),
        # and what follows from the truth is not
        (["7+5+0=02", "1+2+1=04", "042"], [False, False, True]),
        (["7+5+0=12", "1+2+1=04", "043"], [True, True, False]),
        # digits that the prompt does not have there
        (["5+7+0=12", "1+2+1=04", "042"], [False, True, True]),
        # one line too many, and lines that cannot be read
        ([*RIGHT, "042"], [True, True, True, False]),
        (["", "=", "000"], [False, False, True]),
    ],
)
def test_each_line_is_judged_by_those_before_it(lines: list[str], verdicts: list[bool]) -> None:
    assert ADDITION.verdicts(lines) == verdicts


def test_without_slips_the_answer_is_the_sum() -> None:
    random = Random(3)
    for _ in range(200):
        addition = draw_addition(random)
        lines = draw_attempt(random, addition, slip=0.0)
        assert all(addition.verdicts(lines)) and len(lines) == 4
        left, right = addition.prompt.split("+")
        assert int(lines[-1]) == int(left) + int(right)


def test_a_slip_makes_its_own_line_wrong_and_no_other() -> None:
    random = Random(4)
    verdicts = []
    for _ in range(300):
        addition = draw_addition(random, places=2)
        verdicts += addition.verdicts(draw_attempt(random, addition, slip=0.3))
    assert 0.65 < sum(verdicts) / len(verdicts) < 0.75
    assert not any(ADDITION.verdicts(draw_attempt(random, ADDITION, slip=1.0)))


# -- rows ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """Some rows of each use, as fetch writes them."""
    folder = tmp_path_factory.mktemp("additions")
    found = {}
    for use in ROWS:
        (folder / use).mkdir()
        fetch_address("additions:200", folder / use, use)
        lines = (folder / use / f"{use}.jsonl").read_text().splitlines()
        found[use] = [json.loads(line) for line in lines]
    return found


def test_every_use_has_its_rows_the_same_each_time(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    uses = ("sft", "sft", "steps")
    one, two, other = (
        fetch_address("additions:40", folder, use)
        for folder, use in zip(folders, uses, strict=True)
    )
    assert one == two != other


@pytest.mark.parametrize("address", ["additions:0", "additions:", "additions:many"])
def test_the_number_of_rows_is_checked(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected additions:ROWS"):
        fetch_address(address, tmp_path, "sft")


def test_prepare_reads_its_rows(rows: dict[str, list[dict]]) -> None:
    kinds = {"sft": Dialogue, "preferences": Pair, "prompts": Prompt, "steps": Solution}
    for use, kind in kinds.items():
        assert len(rows[use]) == 200
        assert all(isinstance(parse_row(row).record, kind) for row in rows[use]), use


def test_a_prompt_brings_its_answer(rows: dict[str, list[dict]]) -> None:
    for row in rows["prompts"]:
        left, right = row["prompt"].split("+")
        assert int(row["reference"]) == int(left) + int(right)
        record = record_for(parse_row(row), CONVERSIONS["prompts"])
        assert isinstance(record, Prompt) and record.reference == row["reference"]


def test_the_chosen_lines_are_right_and_some_rejected_line_is_not(
    rows: dict[str, list[dict]],
) -> None:
    for row in rows["preferences"]:
        addition = read_addition(row["prompt"])
        assert addition is not None
        assert all(addition.verdicts(row["chosen"].split("\n")))
        assert not all(addition.verdicts(row["rejected"].split("\n")))


def test_labels_say_which_lines_are_right(rows: dict[str, list[dict]]) -> None:
    labels = []
    for row in rows["steps"]:
        addition = read_addition(row["prompt"])
        assert addition is not None
        assert row["labels"] == [float(right) for right in addition.verdicts(row["steps"])]
        labels += row["labels"]
    # a slip in a quarter of the lines
    assert 0.7 < sum(labels) / len(labels) < 0.8


def test_demonstrations_have_slips(rows: dict[str, list[dict]]) -> None:
    right = 0
    for row in rows["sft"]:
        question, answer = (message["content"] for message in row["messages"])
        addition = read_addition(question)
        assert addition is not None
        right += all(addition.verdicts(answer.split("\n")))
    # 0.85 of each of four lines: 0.52
    assert 80 <= right <= 130


@pytest.mark.parametrize("prompt", ["17 and 25", "17+5", "1+2+3", "17+", ""])
def test_what_is_no_addition_is_none(prompt: str) -> None:
    assert read_addition(prompt) is None


def test_an_addition_is_read_from_its_prompt() -> None:
    assert read_addition("17+25") == ADDITION
