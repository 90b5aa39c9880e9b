"""What became of the prepared data: the flat keys of `metrics/prepare.json`, sorted into tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.data.tables import KINDS, SPLITS

# between the use of the data and the reason, as in `sft_dropped_over_limit`
_DROPPED = "_dropped_"


@dataclass(frozen=True)
class SelectedRows:
    """Rows of one split of a table that are used, in all and of each kind that occurs."""

    table: str
    split: str
    count: int
    by_kind: list[int]


@dataclass(frozen=True)
class DroppedRows:
    """Rows that were dropped for one reason; `use`: the list of sources in the settings."""

    use: str
    reason: str
    count: int


@dataclass(frozen=True)
class DataView:
    """The tables of the data section.

    kinds: those that occur, in the order of `SelectedRows.by_kind`
    other: all other keys, as (text, value)
    files: (use and file, [(outcome, rows)]), as `metrics/prepare_details.json` has them
    """

    kinds: list[str]
    selected: list[SelectedRows]
    dropped: list[DroppedRows]
    other: list[tuple[str, Any]]
    files: list[tuple[str, list[tuple[str, int]]]]


def data_view(summary: Mapping[str, Any], details: Mapping[str, Any]) -> DataView:
    """Sort the keys of the summary into tables; only keys with an empty text are left out."""
    places = _places(summary)
    kinds = _kinds(summary, places)
    files: Mapping[str, Mapping[str, int]] = details.get("files", {})
    shown = _count_keys(places, kinds) | _file_keys(files)

    selected = []
    for table, split in places:
        by_kind = [summary.get(f"{table}_{split}_{kind}", 0) for kind in kinds]
        selected.append(SelectedRows(table, split, summary[f"{table}_{split}"], by_kind))

    # a key that `prepare` gets later is shown without a change here
    dropped = []
    other = []
    for key, value in sorted(summary.items()):
        if _DROPPED in key:
            use, reason = key.split(_DROPPED, 1)
            dropped.append(DroppedRows(use, reason.replace("_", " "), value))
        elif key not in shown and value != "":
            other.append((key.replace("_", " "), value))

    by_file = [(name, sorted(counts.items())) for name, counts in sorted(files.items())]
    return DataView(kinds, selected, dropped, other, by_file)


def _places(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(table, split) of every split that has rows."""
    return [
        (table, split)
        for table, splits in SPLITS.items()
        for split in splits
        if f"{table}_{split}" in summary
    ]


def _kinds(summary: Mapping[str, Any], places: list[tuple[str, str]]) -> list[str]:
    """The kinds of prompt that occur in any split."""
    kinds = []
    for kind in KINDS:
        if any(f"{table}_{split}_{kind}" in summary for table, split in places):
            kinds.append(kind)
    return kinds


def _count_keys(places: list[tuple[str, str]], kinds: list[str]) -> set[str]:
    """The keys of the table of selected rows."""
    keys = set()
    for table, split in places:
        keys.add(f"{table}_{split}")
        keys |= {f"{table}_{split}_{kind}" for kind in kinds}
    return keys


def _file_keys(files: Mapping[str, Mapping[str, int]]) -> set[str]:
    """The keys of outcomes by file: details name a file `use: file`, the summary `use/file/outcome`."""
    keys = set()
    for name, counts in files.items():
        prefix = name.replace(": ", "/", 1)
        keys |= {f"{prefix}/{outcome}" for outcome in counts}
    return keys
