"""Pairs and votes in one SQLite file: a vote is on disk before the next page is shown."""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rlhf.annotation.pairs import AnnotationPair
from rlhf.common.errors import DataError
from rlhf.common.files import write_text
from rlhf.core.seeds import derive_seed
from rlhf.evaluation.agreement import fleiss_kappa
from rlhf.evaluation.judges.people import Vote, text_key

Side = Literal["first", "second"]
Choice = Literal["first", "second", "tie", "skip"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pairs (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    messages TEXT NOT NULL,
    first TEXT NOT NULL,
    second TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS seed (value INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS votes (
    number INTEGER PRIMARY KEY,
    pair TEXT NOT NULL REFERENCES pairs,
    annotator TEXT NOT NULL,
    choice TEXT NOT NULL,
    left_side TEXT NOT NULL,
    seconds REAL NOT NULL,
    at TEXT NOT NULL,
    UNIQUE (pair, annotator)
);
"""

# a pair that an earlier start added is there already
_ADD_PAIR = "INSERT OR IGNORE INTO pairs VALUES (?, ?, ?, ?, ?)"
# replaces what the same annotator chose before, by UNIQUE (pair, annotator)
_ADD_VOTE = """
INSERT OR REPLACE INTO votes (pair, annotator, choice, left_side, seconds, at)
VALUES (?, ?, ?, ?, ?, ?)
"""
_ALL_VOTES = """
SELECT pair, first, annotator, choice, left_side, seconds, at
FROM votes JOIN pairs ON pair = key
WHERE choice != 'skip'
ORDER BY number
"""
_LAST_VOTE = "SELECT number, pair FROM votes WHERE annotator = ? ORDER BY number DESC LIMIT 1"


@dataclass(frozen=True)
class DisplayedPair:
    """A pair as one annotator sees it; `left` says which response stands on the left."""

    pair: AnnotationPair
    left: Side

    @property
    def texts(self) -> tuple[str, str]:
        """The responses, left and right."""
        first, second = self.pair.first, self.pair.second
        return (first, second) if self.left == "first" else (second, first)


class VoteStore:
    """The votes of a workspace.

    Votes stay in the file when their pairs are no longer served: those of older models, or of
    other comparisons. So does the seed of its first use: a page that is open while the server
    restarts must mean the same sides.
    """

    def __init__(self, path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # keys of the pairs that are shown and counted; None: all
        self._served: frozenset[str] | None = None
        # Requests come in several threads, which share the connection by the lock. Another process
        # may write too, such as a server that was not ended: then wait. Each statement commits.
        self._connection = sqlite3.connect(
            path, timeout=60, isolation_level=None, check_same_thread=False
        )
        # readers do not wait for a writer, and a vote survives a power cut
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)
        self._connection.execute(
            "INSERT INTO seed SELECT ? WHERE NOT EXISTS (SELECT * FROM seed)", [seed]
        )
        self._seed = int(self._connection.execute("SELECT value FROM seed").fetchone()[0])

    # -- pairs --

    def serve(self, pairs: Sequence[AnnotationPair]) -> None:
        """Add pairs; from now on show and count these alone. Votes that they already have count."""
        self._served = frozenset(pair.key for pair in pairs)
        rows = [
            (
                pair.key,
                pair.kind,
                json.dumps(pair.messages, ensure_ascii=False),
                pair.first,
                pair.second,
            )
            for pair in pairs
        ]
        with self._lock:
            self._connection.executemany(_ADD_PAIR, rows)

    def next_pair(self, annotator: str) -> DisplayedPair | None:
        """The annotator's next pair, in an order of their own; None when all are done.

        Skipped pairs come last, the one that was skipped longest ago first.
        """
        with self._lock:
            votes = self._connection.execute(
                "SELECT pair, choice FROM votes WHERE annotator = ? ORDER BY number", [annotator]
            ).fetchall()
        keys = self._served_keys()

        seen = {key for key, _ in votes}
        new = [key for key in keys if key not in seen]
        if new:
            key = min(new, key=lambda key: derive_seed(self._seed, "order", annotator, key))
            return self.display(key, annotator)

        # a pair that is skipped again gets a new number, and goes to the end
        skipped = [key for key, choice in votes if choice == "skip" and self._is_served(key)]
        return self.display(skipped[0], annotator) if skipped else None

    def display(self, key: str, annotator: str) -> DisplayedPair:
        """A pair as this annotator sees it, always on the same sides.

        Raises KeyError for an unknown pair.
        """
        with self._lock:
            row = self._connection.execute("SELECT * FROM pairs WHERE key = ?", [key]).fetchone()
        if row is None:
            raise KeyError(key)
        key, kind, messages, first, second = row
        pair = AnnotationPair(key, kind, tuple(json.loads(messages)), first, second)
        # derived, not drawn: the sides are the same when the pair is shown again
        coin = derive_seed(self._seed, "sides", annotator, key) % 2
        return DisplayedPair(pair, "first" if coin else "second")

    # -- votes --

    def add_vote(self, key: str, annotator: str, choice: Choice, seconds: float) -> None:
        """Store a vote; it replaces the annotator's earlier one on this pair."""
        left = self.display(key, annotator).left
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            self._connection.execute(_ADD_VOTE, (key, annotator, choice, left, seconds, now))

    def undo_vote(self, annotator: str) -> str | None:
        """Remove the annotator's last vote and give the key of its pair; None if there is none."""
        with self._lock:
            row = self._connection.execute(_LAST_VOTE, [annotator]).fetchone()
            if row is None:
                return None
            number, key = row
            self._connection.execute("DELETE FROM votes WHERE number = ?", [number])
        return str(key)

    def votes(self) -> list[Vote]:
        """All votes in the order they came, of all pairs. A skipped pair has no vote."""
        with self._lock:
            rows = self._connection.execute(_ALL_VOTES).fetchall()
        return [
            Vote(
                pair=pair,
                first=text_key(first),
                annotator=annotator,
                preferred=choice,
                shown_left=left,
                seconds=seconds,
                at=at,
            )
            for pair, first, annotator, choice, left, seconds, at in rows
        ]

    def export(self, path: Path) -> int:
        """Write all votes as JSON lines, for `people:FILE` in `evaluate.judges`; gives their number.

        Raises DataError if there are no votes, or no directory for the file: it may be misspelt.
        """
        # write_text would make the directory
        if not path.parent.is_dir():
            raise DataError(path, f"{path.parent} is no directory")
        votes = self.votes()
        if not votes:
            raise DataError(
                path, "there are no votes yet; `rlhf annotate` serves the page for them"
            )
        write_text(path, "".join(vote.model_dump_json() + "\n" for vote in votes))
        return len(votes)

    # -- what the pages show of the votes --

    def progress(self, annotator: str) -> tuple[int, int]:
        """(served pairs with a vote of this annotator, all served pairs)."""
        done = sum(vote.annotator == annotator for vote in self._served_votes())
        return done, len(self._served_keys())

    def vote_counts(self) -> list[tuple[str, int]]:
        """(annotator, votes on served pairs), by name."""
        return sorted(Counter(vote.annotator for vote in self._served_votes()).items())

    def kappa(self) -> float | None:
        """Fleiss' kappa over the served pairs with several votes; None if it is not defined."""
        by_pair: dict[str, list[str]] = {}
        for vote in self._served_votes():
            by_pair.setdefault(vote.pair, []).append(vote.preferred)
        return fleiss_kappa(list(by_pair.values()))

    def _served_votes(self) -> list[Vote]:
        return [vote for vote in self.votes() if self._is_served(vote.pair)]

    def _served_keys(self) -> list[str]:
        with self._lock:
            rows = self._connection.execute("SELECT key FROM pairs").fetchall()
        return [key for (key,) in rows if self._is_served(key)]

    def _is_served(self, key: str) -> bool:
        return self._served is None or key in self._served
