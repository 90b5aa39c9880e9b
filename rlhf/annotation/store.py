"""Pairs and votes in one SQLite file: a vote is on disk before the page goes on."""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from rlhf.common.errors import DataError
from rlhf.common.files import write_text
from rlhf.core.seeds import derive_seed
from rlhf.evaluation.agreement import fleiss_kappa
from rlhf.evaluation.judges.people import Vote, pair_key, text_key

Choice = Literal["first", "second", "tie", "skip"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pairs (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, messages TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS seed (value INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS votes (
    number INTEGER PRIMARY KEY, pair TEXT NOT NULL REFERENCES pairs, annotator TEXT NOT NULL, choice TEXT NOT NULL,
    left_side TEXT NOT NULL, seconds REAL NOT NULL, at TEXT NOT NULL, UNIQUE (pair, annotator)
);
"""


@dataclass(frozen=True)
class Pair:
    """Two responses to one dialogue; which models wrote them is not known here."""

    key: str
    kind: str
    messages: tuple[dict[str, str], ...]
    first: str
    second: str


@dataclass(frozen=True)
class Shown:
    """A pair as one annotator sees it: `left` and `right` say which response stands there."""

    pair: Pair
    left: Literal["first", "second"]

    @property
    def texts(self) -> tuple[str, str]:
        """The responses, left and right."""
        pair = self.pair
        return (pair.first, pair.second) if self.left == "first" else (pair.second, pair.first)


def pairs_of(comparisons: Path, challenger: str, baseline: str) -> list[Pair]:
    """The pairs of two models in a table of comparisons, each once; equal responses are left out, for they are ties.

    Raises DataError when the table is missing, or has not these two.
    """
    if not comparisons.is_file():
        raise DataError(
            comparisons,
            "no such file; `dvc repro evaluate` makes it, `dvc checkout evaluate` brings that of an earlier run back",
        )
    table = pd.read_parquet(comparisons)
    rows = table[(table["challenger"] == challenger) & (table["baseline"] == baseline)]
    if rows.empty:
        known = sorted(
            {f"{a} {b}" for a, b in zip(table["challenger"], table["baseline"], strict=True)}
        )
        raise DataError(
            comparisons,
            f"no comparison of {challenger} with {baseline}; there are: {', '.join(known)}",
        )
    found: dict[str, Pair] = {}
    for row in rows.to_dict("records"):
        messages = tuple(json.loads(row["messages"]))
        first, second = str(row["response_challenger"]), str(row["response_baseline"])
        if first != second:
            key = pair_key(messages, first, second)
            found[key] = Pair(key, str(row["kind"]), messages, first, second)
    return list(found.values())


class Store:
    """The votes of a workspace; those of pairs that are served no more (of older models, other comparisons) stay in it.

    The seed of its first use stays with it: a page that is open while the server restarts must mean the same sides.
    """

    def __init__(self, path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._served: frozenset[str] | None = None  # all
        self._base = sqlite3.connect(
            path, timeout=60, isolation_level=None, check_same_thread=False
        )
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")  # a vote survives a power cut
        self._base.executescript(_SCHEMA)
        self._base.execute(
            "INSERT INTO seed SELECT ? WHERE NOT EXISTS (SELECT * FROM seed)", [seed]
        )
        self._seed = int(self._base.execute("SELECT value FROM seed").fetchone()[0])

    def serve(self, pairs: Sequence[Pair]) -> None:
        """Take pairs in and show these from now on, no others; votes that they have already count."""
        self._served = frozenset(pair.key for pair in pairs)
        rows = [
            (p.key, p.kind, json.dumps(p.messages, ensure_ascii=False), p.first, p.second)
            for p in pairs
        ]
        with self._lock:
            self._base.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?, ?, ?)", rows)

    def next(self, annotator: str) -> Shown | None:
        """The annotator's next pair, in an order and on sides of its own; skipped ones come last; None: all are done."""
        with self._lock:
            votes = self._base.execute(
                "SELECT pair, choice FROM votes WHERE annotator = ? ORDER BY number", [annotator]
            ).fetchall()
            keys = [
                key
                for (key,) in self._base.execute("SELECT key FROM pairs")
                if self._is_served(key)
            ]
        seen = {key for key, _ in votes}
        new = sorted(
            (key for key in keys if key not in seen),
            key=lambda key: derive_seed(self._seed, "order", annotator, key),
        )
        skipped = [
            key for key, choice in votes if choice == "skip" and self._is_served(key)
        ]  # the longest ago first
        left = new or skipped
        return self.show(left[0], annotator) if left else None

    def _is_served(self, key: str) -> bool:
        return self._served is None or key in self._served

    def show(self, key: str, annotator: str) -> Shown:
        """A pair as this annotator sees it, always on the same sides; raises KeyError for an unknown one."""
        with self._lock:
            row = self._base.execute("SELECT * FROM pairs WHERE key = ?", [key]).fetchone()
        if row is None:
            raise KeyError(key)
        pair = Pair(row[0], row[1], tuple(json.loads(row[2])), row[3], row[4])
        return Shown(
            pair, "first" if derive_seed(self._seed, "sides", annotator, key) % 2 else "second"
        )

    def vote(self, key: str, annotator: str, choice: Choice, seconds: float) -> None:
        """Keep a vote; the annotator's earlier one on this pair is replaced."""
        left = self.show(key, annotator).left
        row = (
            key,
            annotator,
            choice,
            left,
            seconds,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._lock:
            self._base.execute(
                "INSERT OR REPLACE INTO votes (pair, annotator, choice, left_side, seconds, at) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

    def undo(self, annotator: str) -> str | None:
        """Take the annotator's last vote back and give its pair; None where there is none."""
        with self._lock:
            row = self._base.execute(
                "SELECT number, pair FROM votes WHERE annotator = ? ORDER BY number DESC LIMIT 1",
                [annotator],
            ).fetchone()
            if row is None:
                return None
            self._base.execute("DELETE FROM votes WHERE number = ?", [row[0]])
        return str(row[1])

    def progress(self, annotator: str) -> tuple[int, int]:
        """(served pairs with a vote of this annotator, all served pairs)."""
        done = sum(vote.annotator == annotator for vote in self._votes_served())
        with self._lock:
            keys = [key for (key,) in self._base.execute("SELECT key FROM pairs")]
        return done, sum(map(self._is_served, keys))

    def counts(self) -> list[tuple[str, int]]:
        """(annotator, votes on what is served)."""
        return sorted(Counter(vote.annotator for vote in self._votes_served()).items())

    def kappa(self) -> float | None:
        """Fleiss' kappa over the served pairs with several votes."""
        by_pair: dict[str, list[str]] = {}
        for vote in self._votes_served():
            by_pair.setdefault(vote.pair, []).append(vote.preferred)
        return fleiss_kappa(list(by_pair.values()))

    def _votes_served(self) -> list[Vote]:
        return [vote for vote in self.votes() if self._is_served(vote.pair)]

    def votes(self) -> list[Vote]:
        """All votes in the order they came; what was skipped is no vote."""
        with self._lock:
            rows = self._base.execute(
                "SELECT pair, first, annotator, choice, left_side, seconds, at FROM votes JOIN pairs ON pair = key "
                "WHERE choice != 'skip' ORDER BY number"
            ).fetchall()
        names = ("pair", "first", "annotator", "preferred", "shown_left", "seconds", "at")
        return [
            Vote.model_validate(dict(zip(names, (row[0], text_key(row[1]), *row[2:]), strict=True)))
            for row in rows
        ]

    def export(self, path: Path) -> int:
        """Write all votes as JSON lines, for `people:FILE` in `evaluate.judges`; gives their number.

        Raises DataError where there are none, or no directory for the file: it may be misspelt.
        """
        if not path.parent.is_dir():
            raise DataError(path, f"{path.parent} is no directory")
        if not (votes := self.votes()):
            raise DataError(
                path,
                "no votes yet to write; `rlhf annotate` serves the page on which they are given",
            )
        write_text(path, "".join(vote.model_dump_json() + "\n" for vote in votes))
        return len(votes)
