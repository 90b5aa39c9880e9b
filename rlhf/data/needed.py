"""The splits without which a later stage stops."""

from collections.abc import Callable, Mapping, Sequence

from rlhf.data.records import Row
from rlhf.data.split import opening_of_row

NEEDED_SPLITS: Mapping[str, tuple[str, ...]] = {
    "sft": ("train", "validation"),
    "preferences": ("train", "gold", "validation", "test"),
    "prompts": ("train", "validation", "test"),
    "pretrain": ("train", "validation"),
    "steps": ("train", "validation", "test"),
}
_ADVICE = {
    "train": "more rows, or smaller data.test_fraction and data.validation_fraction, leave some",
    "validation": "more rows, a file validation.jsonl or a larger data.validation_fraction give some",
    "test": "data.evaluation, a file test.jsonl or a larger data.test_fraction give some",
    "gold": "more rows or a larger data.gold_fraction give some",
}


def use_that_fills(table: str, split: str) -> str:
    """The list of `data` that a split of a table gets its rows from."""
    return "evaluation" if (table, split) == ("prompts", "test") else table


def no_rows_left(
    table: str,
    split: str,
    rows: Sequence[Row],
    *,
    some_kept: bool,
    name: Callable[[str, str], str] = lambda _, file: file,
) -> str:
    """That a needed split is empty, and what gives it rows.

    rows: those that were there for it; some_kept: whether another split of the table has some
    name: what people call the file of a use
    """
    advice = _of_names(split, rows, name) or (some_kept and _of_openings(table, rows))
    return f"no rows left for {split}; {advice or _ADVICE[split]}"


def _of_names(split: str, rows: Sequence[Row], name: Callable[[str, str], str]) -> str | None:
    """Where names of files alone put all rows into another split."""
    published = {row.published_split for row in rows if row.use != "evaluation"}
    if len(published) != 1 or not published <= {"test", "validation"} - {split}:
        return None
    (other,) = published
    first, *more = dict.fromkeys(name(row.use, row.file) for row in rows)
    others = f" and {len(more)} more" if more else ""
    return (
        f"the name of {first}{others} makes all rows {other} rows: another name, as data.jsonl, or rows "
        "in a file of another name, give some"
    )


def _of_openings(table: str, rows: Sequence[Row]) -> str | None:
    """Where there are fewer first questions than splits, however many rows."""
    openings = {opening_of_row(row) for row in rows}
    if table == "pretrain" or not len(openings) < min(len(rows), len(NEEDED_SPLITS[table])):
        return None
    asked = "the same first question" if len(openings) == 1 else f"{len(openings)} first questions"
    return (
        f"all {len(rows)} rows open with {asked}, and rows that open alike stay in one split: "
        "rows with other first questions give some"
    )
