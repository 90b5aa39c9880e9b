"""The account of the prepared data, read from the flat keys of `metrics/prepare.json` into tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.data.tables import KINDS, SPLITS

_DROPPED = "_dropped_"


@dataclass(frozen=True)
class DataView:
    """What became of the rows.

    kinds: the kinds that occur, the columns of `kept`
    kept: (table, split, rows, rows of each kind); dropped: (use, reason, rows); rest: everything else, key and value
    files: (file with its use, outcomes and rows), as they also stand in `metrics/prepare_details.json`
    """

    kinds: list[str]
    kept: list[tuple[str, str, int, list[int]]]
    dropped: list[tuple[str, str, int]]
    rest: list[tuple[str, Any]]
    files: list[tuple[str, list[tuple[str, int]]]]


def data_view(summary: Mapping[str, Any], details: Mapping[str, Any]) -> DataView:
    """Sort the summary's keys into tables; none of them is lost."""
    places = [
        (table, split)
        for table, splits in SPLITS.items()
        for split in splits
        if f"{table}_{split}" in summary
    ]
    kinds = [
        kind
        for kind in KINDS
        if any(f"{table}_{split}_{kind}" in summary for table, split in places)
    ]
    used = {
        f"{table}_{split}{suffix}"
        for table, split in places
        for suffix in ("", *(f"_{kind}" for kind in kinds))
    }
    files = details.get("files", {})
    used |= {
        f"{name.replace(': ', '/', 1)}/{outcome}"
        for name, counts in files.items()
        for outcome in counts
    }
    dropped = [
        (*key.split(_DROPPED, 1), value)
        for key, value in sorted(summary.items())
        if _DROPPED in key
    ]
    return DataView(
        kinds=kinds,
        kept=[
            (
                table,
                split,
                summary[f"{table}_{split}"],
                [summary.get(f"{table}_{split}_{kind}", 0) for kind in kinds],
            )
            for table, split in places
        ],
        dropped=[(use, reason.replace("_", " "), value) for use, reason, value in dropped],
        rest=[
            (key.replace("_", " "), value)
            for key, value in sorted(summary.items())
            if key not in used and _DROPPED not in key and value != ""
        ],
        files=[(name, sorted(counts.items())) for name, counts in sorted(files.items())],
    )
