"""Reference answers of prompts: as they were written, in a column only where there are some."""

from collections.abc import Callable
from typing import Any

import pytest
from raw_files import replace_raw

from rlhf.batches.tables import COLUMNS, has_column, read_table, write_table
from rlhf.common.files import read_json
from rlhf.data.load import CONVERSIONS, record_for
from rlhf.data.parse import parse_row
from rlhf.data.prepare import prepare
from rlhf.data.records import Dialogue, Prompt
from rlhf.data.rows import BrokenRow
from rlhf.settings import Settings
from rlhf.workspace import Workspace

Make = Callable[..., Settings]


def prompt_of(row: dict[str, Any]) -> Prompt:
    record = record_for(parse_row(row), CONVERSIONS["prompts"])
    assert isinstance(record, Prompt)
    return record


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("4", "4"),
        (" two\n#### 2 ", " two\n#### 2 "),
        (4, "4"),
        (-0.5, "-0.5"),
        (None, None),
        # an empty cell of a table; one for each turn
        ("", None),
        (" \n", None),
        (["4", "5"], "4"),
        ([], None),
    ],
)
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?"},
        {"messages": [{"role": "user", "content": "2 + 2?"}]},
        {"turns": ["2 + 2?", "And 3?"]},
        {"question": "2 + 2?", "answer": "Four."},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    ],
)
def test_a_prompt_of_any_shape_may_have_one(
    row: dict[str, Any], value: object, expected: str | None
) -> None:
    record = prompt_of({**row, "reference": value})
    assert record.reference == expected
    assert [message.content for message in record.messages] == ["2 + 2?"]


@pytest.mark.parametrize("value", [True, [{"answer": 4}], {"answer": 4}])
def test_what_is_no_answer_drops_the_row_by_a_reason(value: object) -> None:
    with pytest.raises(BrokenRow, match="reference_is_no_text_or_number"):
        prompt_of({"prompt": "2 + 2?", "reference": value})
    # demonstrations do without
    row = {"prompt": "2 + 2?", "answer": "Four.", "reference": value}
    assert isinstance(record_for(parse_row(row), CONVERSIONS["sft"]), Dialogue)


def test_no_number_is_no_reference() -> None:
    assert prompt_of({"prompt": "2 + 2?", "reference": float("nan")}).reference is None


def test_the_table_has_them_beside_their_prompts(workspace: Workspace, make_settings: Make) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"What is {number} and {number}?", "reference": 2 * number}
        for number in range(40)
    ]
    rows += [{"prompt": f"Name {number} colours."} for number in range(20)]
    replace_raw(workspace, "prompts", train=rows)
    prepare(make_settings(), workspace)
    table = read_table(workspace, "prompts", split="train")
    found = dict(zip(table["messages"], table["reference"], strict=True))
    assert len(found) > 20
    for messages, reference in found.items():
        if "colours" in messages:
            assert reference is None or reference != reference
        else:
            number = int(messages.split("What is ")[1].split()[0])
            assert reference == str(2 * number)
    summary = read_json(workspace.metrics("prepare"))
    assert summary["prompts_train_references"] == sum("What is" in text for text in found)


def test_a_table_without_any_has_no_column_for_them(
    workspace: Workspace, make_settings: Make
) -> None:
    prepare(make_settings(), workspace)
    assert list(read_table(workspace, "prompts").columns) == list(COLUMNS["prompts"])
    assert not has_column(workspace, "prompts", "reference")
    assert not [key for key in read_json(workspace.metrics("prepare")) if "_references" in key]
    rows = read_table(workspace, "prompts").to_dict("records")
    before = (workspace.prepared / "prompts.parquet").read_bytes()
    write_table(workspace.prepared, "prompts", [{**row, "reference": None} for row in rows])
    assert (workspace.prepared / "prompts.parquet").read_bytes() == before
