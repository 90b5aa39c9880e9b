"""A label column says yes or no where all of its values in a file do; else it names classes."""

from pathlib import Path
from typing import Any

import pytest
from raw_files import write_lines

from rlhf.data.labels import FileLabels
from rlhf.data.load import parse_file
from rlhf.data.rows import BrokenRow
from rlhf.data.rules import Rules

ROW = {"prompt": "Why?", "completion": "So."}


def parsed(directory: Path, labels: list[Any], rules: Rules, name: str = "label") -> list[Any]:
    """The reason of each broken row of a file with these labels, what is not read of the others."""
    rows = [ROW if label is None else {**ROW, name: label} for label in labels]
    path = write_lines(directory / "a.jsonl", [*rows, "{"])
    contents = [row.content for row in parse_file(path, directory, rules)][:-1]
    return [one.reason if isinstance(one, BrokenRow) else one.unread for one in contents]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (True, False),
        (1, 0),
        (1.0, -1),
        ("1", ""),
        ("Yes", "No"),
        ("y", "n"),
        ("thumbs_up", "thumbs_down"),
        ("thumbs up", "Thumbs Down"),
        ("desirable", "undesirable"),
    ],
)
def test_labels_that_all_say_yes_or_no_count(good: Any, bad: Any, tmp_path: Path) -> None:
    for name in ("label", "kto_tag"):
        found = parsed(tmp_path, [good, None, bad], Rules(), name)
        assert found == [(), (), () if bad == "" else "labelled_bad"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 2, 3], "0, 1, 2, 3"),
        (["no", "yes", "maybe"], "no, yes, maybe"),
        ([*range(20), 0], "0, 1, 2, 3, 4, 5"),
        ([False, "a" * 50], f"False, {'a' * 20}"),
    ],
)
def test_classes_are_no_labels_and_are_told(labels: list[Any], told: str, tmp_path: Path) -> None:
    assert parsed(tmp_path, labels, Rules()) == [(f"label (classes: {told})",)] * len(labels)


def test_a_mapped_label_is_looked_at_under_its_own_name(tmp_path: Path) -> None:
    rules = Rules(columns=(("label", "meta.score"),))
    for values, bad in (([0, 1], "labelled_bad"), ([0, 5], ("label (classes: 0, 5)",))):
        found = parsed(tmp_path, [{"score": value} for value in values], rules, "meta")
        assert found[0] == bad


def test_a_file_without_labels_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("rlhf.data.labels.read_rows")
    rules = Rules()
    assert FileLabels(tmp_path / "a.jsonl", rules).rules_for(ROW) is rules
