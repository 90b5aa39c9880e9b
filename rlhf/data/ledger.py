"""The account of what became of every row: in which split it is, or why it was dropped."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf.common.errors import DataError
from rlhf.common.metrics import Value
from rlhf.data.records import RowLocation
from rlhf.data.tables import OPTIONAL_TABLES

# Reasons that are no fault of the row: the tables, as the settings want them, have no place for it.
UNWANTED = frozenset(
    {
        "duplicate",
        "opening_in_test",
        "opening_in_other_split",
        "over_limit",
        "published_split_not_used",
        "long_response",
        "equal_once_cut",
        "no_label_once_cut",
    }
)
# What can happen to a row that stays, by use.
NOTES: Mapping[str, tuple[str, ...]] = {
    "sft": ("prompt_shortened", "response_truncated"),
    "preferences": ("prompt_shortened", "chosen_truncated", "rejected_truncated"),
    "prompts": ("prompt_shortened",),
    "evaluation": ("prompt_shortened",),
    "steps": ("prompt_shortened", "response_truncated"),
}
# How many broken rows a message names.
MAX_NAMED = 5
REFETCH_HINT = "once that is corrected at its source, `dvc repro -f -s fetch` reads it again"


@dataclass
class Ledger:
    """Counts of rows, and the location of every broken one.

    counts: by (use, file, outcome), where an outcome is a split or the reason of a drop
    broken: rows that were dropped for a fault of their own, with the reason
    notes: by (use, note)
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    broken: list[tuple[RowLocation, str]] = field(default_factory=list)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def keep(self, location: RowLocation, split: str) -> None:
        """Count a row that is in a table."""
        self.counts[location.use, location.file, split] += 1

    def drop(self, location: RowLocation, reason: str) -> None:
        """Count a row that is in no table."""
        self.counts[location.use, location.file, reason] += 1
        # a fault of the row itself
        if reason not in UNWANTED:
            self.broken.append((location, reason))

    def note(self, use: str, note: str) -> None:
        """Count something that happened to a row which stays."""
        self.notes[use, note] += 1

    def refuse_broken(self) -> None:
        """Raise DataError if any row was broken, naming the first."""
        if not self.broken:
            return

        location, reason = self.broken[0]
        # the first is named by file and line, the next ones in passing
        more = len(self.broken) - 1
        others = f" (and {more} more: {self.first_broken(start=1)})" if more else ""
        raise DataError(
            location.file,
            f"{reason} in data.{location.use}{others}; "
            f"data.broken: drop leaves such rows out; {REFETCH_HINT}",
            location.line,
        )

    def first_broken(self, start: int = 0) -> str:
        """Name the first broken rows, from number `start` on, in one line of text."""
        named = self.broken[start : start + MAX_NAMED]
        return "; ".join(f"{row.file}:{row.line} {reason}" for row, reason in named)

    def summary(self, splits: frozenset[str]) -> dict[str, Value]:
        """Flat keys: rows by use, file and outcome; dropped rows and notes by use.

        splits: the outcomes that are no reasons
        """
        files = {
            f"{use}/{file}/{outcome}": count for (use, file, outcome), count in self.counts.items()
        }
        dropped = self._dropped(splits)
        return {
            **files,
            **dropped,
            **self._noted(),
            "dropped": sum(dropped.values()),
            "broken": len(self.broken),
            "broken_first": self.first_broken(),
        }

    def _dropped(self, splits: frozenset[str]) -> Counter[str]:
        dropped: Counter[str] = Counter()
        for (use, _, outcome), count in self.counts.items():
            if outcome not in splits:
                dropped[f"{use}_dropped_{outcome}"] += count
        return dropped

    def _noted(self) -> dict[str, int]:
        """Every note that a use can have, 0 included; of an optional use where it has rows."""
        noted = {}
        used = {use for use, _, _ in self.counts}
        for use, notes in NOTES.items():
            if use in OPTIONAL_TABLES and use not in used:
                continue
            for note in notes:
                noted[f"{use}_{note}"] = self.notes[use, note]
        return noted

    def details(self) -> dict[str, object]:
        """Counts by file, and all broken rows."""
        # sorted, so that the file is the same in whatever order rows were dropped
        files: dict[str, dict[str, int]] = {}
        for (use, file, outcome), count in sorted(self.counts.items()):
            files.setdefault(f"{use}: {file}", {})[outcome] = count

        broken = [
            {"use": row.use, "file": row.file, "line": row.line, "reason": reason}
            for row, reason in self.broken
        ]
        return {"files": files, "broken": broken}
