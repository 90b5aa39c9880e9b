"""The account of what became of every row: kept in which split, or dropped for which reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf.common.errors import DataError
from rlhf.common.metrics import Value

# Reasons that are no fault of the row: it has no place in the tables as they were asked for.
UNWANTED = frozenset(
    {
        "duplicate",
        "opening_in_test",
        "opening_in_other_split",
        "over_limit",
        "published_split_not_used",
        "long_response",
        "equal_once_cut",
    }
)
# What can befall a row that is kept.
NOTES: Mapping[str, tuple[str, ...]] = {
    "sft": ("prompt_shortened", "response_truncated"),
    "preferences": ("prompt_shortened", "chosen_truncated", "rejected_truncated"),
    "prompts": ("prompt_shortened",),
    "evaluation": ("prompt_shortened",),
}
SHOWN = 5
REREAD = "once that is mended where it came from, `dvc repro -f -s fetch` reads it again"


@dataclass(frozen=True)
class Place:
    """A row's place: the use that its file was brought for, the file and its line."""

    use: str
    file: str
    line: int


@dataclass
class Ledger:
    """Counts by (use, file, outcome), where an outcome is a split or a reason, and every broken row by its place."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    broken: list[tuple[Place, str]] = field(default_factory=list)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def keep(self, place: Place, split: str) -> None:
        """Count a row that is in a table."""
        self.counts[place.use, place.file, split] += 1

    def drop(self, place: Place, reason: str) -> None:
        """Count a row that is not."""
        self.counts[place.use, place.file, reason] += 1
        if reason not in UNWANTED:
            self.broken.append((place, reason))

    def note(self, use: str, what: str) -> None:
        """Count something that befell a row which was kept."""
        self.notes[use, what] += 1

    def refuse_broken(self) -> None:
        """Raise DataError if any row was broken, naming the first."""
        if not self.broken:
            return
        place, reason = self.broken[0]
        others = (
            f" (and {len(self.broken) - 1} more: {self.first_broken(1)})"
            if len(self.broken) > 1
            else ""
        )
        raise DataError(
            place.file,
            f"{reason} in data.{place.use}{others}; data.broken: drop leaves such rows out; {REREAD}",
            place.line,
        )

    def first_broken(self, start: int = 0) -> str:
        """Name some broken rows in one line of text."""
        chosen = self.broken[start : start + SHOWN]
        return "; ".join(f"{place.file}:{place.line} {reason}" for place, reason in chosen)

    def summary(self, splits: frozenset[str]) -> dict[str, Value]:
        """Give rows by use, file and outcome, dropped rows and notes by use and reason, flat."""
        dropped: Counter[str] = Counter()
        for (use, _, outcome), count in self.counts.items():
            if outcome not in splits:
                dropped[f"{use}_dropped_{outcome}"] += count
        noted = {
            f"{use}_{what}": self.notes[use, what] for use, whats in NOTES.items() for what in whats
        }
        files = {
            f"{use}/{file}/{outcome}": count
            for (use, file, outcome), count in sorted(self.counts.items())
        }
        total = sum(dropped.values())
        return {
            **files,
            **dropped,
            **noted,
            "dropped": total,
            "broken": len(self.broken),
            "broken_first": self.first_broken(),
        }

    def details(self) -> dict[str, object]:
        """Give counts per file, and all broken rows."""
        files: dict[str, dict[str, int]] = {}
        for (use, file, outcome), count in sorted(self.counts.items()):
            files.setdefault(f"{use}: {file}", {})[outcome] = count
        broken = [
            {"use": place.use, "file": place.file, "line": place.line, "reason": reason}
            for place, reason in self.broken
        ]
        return {"files": files, "broken": broken}
