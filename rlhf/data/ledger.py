"""The account of what became of every row: in which split it is, or why it was dropped."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlhf.common.errors import DataError
from rlhf.common.metrics import Value
from rlhf.data.frames import Rewriting
from rlhf.data.records import RowLocation
from rlhf.data.tables import OPTIONAL_TABLES, SPLITS

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
        "labelled_bad",
        "answer_without_weight",
        "not_held_out",
        "not_drawn",
    }
)
_PROMPT_NOTES = ("prompt_shortened", "thoughts_cut", "prompt_rewritten")
# What can happen to a row that stays, by use.
NOTES: Mapping[str, tuple[str, ...]] = {
    "sft": (*_PROMPT_NOTES, "response_truncated", "response_rewritten"),
    "preferences": (
        *_PROMPT_NOTES,
        "chosen_truncated",
        "rejected_truncated",
        "chosen_rewritten",
        "rejected_rewritten",
        "contradicting",
    ),
    "prompts": _PROMPT_NOTES,
    "evaluation": _PROMPT_NOTES,
    "steps": (*_PROMPT_NOTES, "response_truncated"),
}
# How many broken rows a message names.
MAX_NAMED = 5
REFETCH_HINT = "once that is corrected at its source, `dvc repro -f -s fetch` reads it again"


# A line, and a text there before and after.
Example = dict[str, object]


@dataclass
class Ledger:
    """Counts of rows, the location of every broken one, and what was not kept as it was written.

    counts: by (use, file, outcome), where an outcome is a split or the reason of a drop
    broken: rows that were dropped for a fault of their own, with the reason
    first_lines: of the rows that were dropped for a reason, the line of the first
    hints: what a person needs to mend a row, by (use, file, reason): of the first one
    notes: by (use, note)
    shown: of a note, the first row whose text the chat template changed, and the text there
    changes: rows whose text changed, by (use, file, what changed it)
    examples: of a change, the first
    unread: rows with a column that holds something and is not read, by (use, file, column)
    unreadable: files of which no row can be read, by (use, file), with what is wrong
    mapped: the names in `data.columns` that some row has a column for
    names: what messages call a file, by (use, file), where that is another name
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    broken: list[tuple[RowLocation, str]] = field(default_factory=list)
    first_lines: dict[tuple[str, str, str], int] = field(default_factory=dict)
    hints: dict[tuple[str, str, str], str] = field(default_factory=dict)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    shown: dict[tuple[str, str], str] = field(default_factory=dict)
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str, str], Example] = field(default_factory=dict)
    unread: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unreadable: dict[tuple[str, str], str] = field(default_factory=dict)
    mapped: set[str] = field(default_factory=set)
    names: dict[tuple[str, str], str] = field(default_factory=dict)

    def name(self, use: str, file: str) -> str:
        """What people call a file."""
        return self.names.get((use, file), file)

    def keep(self, location: RowLocation, split: str) -> None:
        """Count a row that is in a table."""
        self.counts[location.use, location.file, split] += 1

    def drop(self, location: RowLocation, reason: str, hint: str = "") -> None:
        """Count a row that is in no table; hint: how to mend it."""
        key = location.use, location.file, reason
        self.counts[key] += 1
        self.first_lines.setdefault(key, location.line)
        if hint:
            self.hints.setdefault(key, hint)
        # a fault of the row itself
        if reason not in UNWANTED:
            self.broken.append((location, reason))

    def note(self, use: str, note: str) -> None:
        """Count something that happened to a row which stays."""
        self.notes[use, note] += 1

    def show(self, location: RowLocation, note: str, rewriting: Rewriting) -> None:
        """Keep the first example of a note."""
        before, after = rewriting
        place = f"{self.name(location.use, location.file)}:{location.line}"
        text = f"as in {place}: {before!r} became {after!r}"
        self.shown.setdefault((location.use, note), text)

    def change(self, location: RowLocation, what: str, before: str, after: str) -> None:
        """Count a row whose text is not what was written, with the text around the first place."""
        key = location.use, location.file, what
        self.changes[key] += 1
        self.examples.setdefault(key, {"line": location.line, "before": before, "after": after})

    def leave_unread(self, location: RowLocation, columns: Iterable[str]) -> None:
        """Count the columns of a row that are not read."""
        self.unread.update((location.use, location.file, column) for column in columns)

    def leave_file(self, use: str, file: str, problem: str) -> None:
        """Note a file of which no row can be read."""
        self.unreadable[use, file] = problem

    def check_mapped(self, columns: Mapping[str, str]) -> None:
        """Refuse a name in `data.columns` that no row has; raises DataError."""
        for known, theirs in columns.items():
            if known not in self.mapped:
                unread = sorted({column for _, _, column in self.unread})
                raise DataError(
                    f"data.columns.{known}",
                    f"no row has a column {theirs!r}; not read are {', '.join(unread) or 'none'}"
                    f"; {self.first_broken() or 'no row is broken'}",
                )

    def refuse_broken(self) -> None:
        """Raise DataError if any file or row was broken, naming the first."""
        for (use, file), problem in self.unreadable.items():
            raise DataError(
                self.name(use, file),
                f"in data.{use}: {problem}; data.broken: drop leaves such files out; {REFETCH_HINT}",
            )
        if not self.broken:
            return

        location, reason = self.broken[0]
        # the first is named by file and line, the next ones in passing
        more = len(self._places()) - 1
        others = f" (and {more} more: {self.first_broken(start=1)})" if more else ""
        raise DataError(
            self.name(location.use, location.file),
            f"{reason} in data.{location.use}{self._hint(location, reason)}{others}; "
            f"data.broken: drop leaves such rows out; {REFETCH_HINT}",
            location.line,
        )

    def first_broken(self, start: int = 0) -> str:
        """Name the first broken rows, from number `start` on, in one line of text."""
        places = list(self._places().items())
        # those before them were named with theirs
        hinted = {reason for _, (_, reason) in places[:start]}
        parts = []
        for place, (row, reason) in places[start : start + MAX_NAMED]:
            # once for all rows of a reason
            hint = "" if reason in hinted else self._hint(row, reason)
            hinted.add(reason)
            parts.append(f"{place}{hint}")
        return "; ".join(parts)

    def _places(self) -> dict[str, tuple[RowLocation, str]]:
        """The broken rows by what names them: one that several uses have is one."""
        places: dict[str, tuple[RowLocation, str]] = {}
        for row, reason in self.broken:
            places.setdefault(f"{self.name(row.use, row.file)}:{row.line} {reason}", (row, reason))
        return places

    @property
    def broken_rows(self) -> int:
        """How many rows are broken, each counted once however many uses have it."""
        return len({(self.name(row.use, row.file), row.line) for row, _ in self.broken})

    def _hint(self, location: RowLocation, reason: str) -> str:
        hint = self.hints.get((location.use, location.file, reason))
        return f" ({hint})" if hint else ""

    def told(self) -> list[str]:
        """What was not kept as it was written, a line each."""
        lines = []
        for (use, file, what), rows in sorted(self.changes.items()):
            example = self.examples[use, file, what]
            # turns that were joined are named by their line alone
            is_shown = example["before"] or example["after"]
            shown = f": {example['before']!r} became {example['after']!r}" if is_shown else ""
            lines.append(
                f"{use}: {self.name(use, file)}: {what} in {counted(rows)}, as in line {example['line']}{shown}"
            )
        lost: dict[tuple[str, str], list[str]] = {}
        for (use, file, column), rows in sorted(self.unread.items()):
            lost.setdefault((use, file), []).append(f"{column} ({counted(rows)})")
        for (use, file), columns in lost.items():
            lines.append(
                f"{use}: {self.name(use, file)}: columns that are not read: {', '.join(columns)}"
            )
        return lines

    def losses(self, use: str) -> str:
        """What a use lost, most first: reasons of dropped rows, and what was done to others."""
        dropped = Counter[str]()
        for (of, _, outcome), count in self.counts.items():
            if of == use and outcome not in SPLITS.get(use, ()):
                dropped[outcome] += count
        noted = Counter({note: count for (of, note), count in self.notes.items() if of == use})
        told = {"dropped": dropped.most_common(), "kept with": (+noted).most_common()}
        lost = "".join(
            f"; {what}: {', '.join(f'{name} {count}' for name, count in found)}"
            for what, found in told.items()
            if found
        )
        shown = [f"; {note} {text}" for (of, note), text in self.shown.items() if of == use]
        return lost + "".join(shown)

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
            **self._changed(),
            "dropped": sum(dropped.values()),
            # a row that several uses have is one, in the log as here
            "broken": self.broken_rows,
            "broken_first": self.first_broken(),
            "files_not_read": len(self.unreadable),
        }

    def _dropped(self, splits: frozenset[str]) -> Counter[str]:
        dropped: Counter[str] = Counter()
        for (use, _, outcome), count in self.counts.items():
            if outcome not in splits:
                dropped[f"{use}_dropped_{outcome}"] += count
        return dropped

    def _changed(self) -> Counter[str]:
        changed: Counter[str] = Counter()
        for (use, _, what), rows in self.changes.items():
            changed[f"{use}_changed_{what}"] += rows
        return changed

    def _noted(self) -> dict[str, int]:
        """Every note that a use can have, 0 included; of an optional use where it has rows."""
        noted = {}
        used = {use for use, _, _ in self.counts}
        for use, notes in NOTES.items():
            if use in OPTIONAL_TABLES and use not in used:
                continue
            for note in notes:
                noted[f"{use}_{note}"] = self.notes[use, note]
        # and those that came up
        noted |= {f"{use}_{note}": count for (use, note), count in self.notes.items()}
        return noted

    def details(self) -> dict[str, object]:
        """By file: counts, changes with an example, columns not read, hints. And all broken rows.

        By use: an example of what the chat template changes.
        """
        broken = [
            {"use": row.use, "file": row.file, "line": row.line, "reason": reason}
            for row, reason in self.broken
        ]
        changes = {key: {"rows": rows, **self.examples[key]} for key, rows in self.changes.items()}
        return {
            "files": _by_file(self.counts),
            "changes": _by_file(changes),
            "rewritten": {
                f"{use}: {note}": text for (use, note), text in sorted(self.shown.items())
            },
            "columns_not_read": _by_file(self.unread),
            "hints": _by_file(self.hints),
            "broken": broken,
            "files_not_read": {
                f"{use}: {file}": why for (use, file), why in sorted(self.unreadable.items())
            },
        }


def counted(rows: int) -> str:
    """How many rows, in words."""
    return f"{rows:,} row" if rows == 1 else f"{rows:,} rows"


def _by_file(values: Mapping[tuple[str, str, str], object]) -> dict[str, dict[str, object]]:
    """Sorted, so that it is the same in whatever order rows were read."""
    files: dict[str, dict[str, object]] = {}
    for (use, file, name), value in sorted(values.items(), key=lambda item: item[0]):
        files.setdefault(f"{use}: {file}", {})[name] = value
    return files
