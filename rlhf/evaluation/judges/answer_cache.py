"""A judge's answers on disk: paid for once, whatever becomes of the run that asked."""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kept:
    """The text of an answer ("" where the endpoint refused to give any), whether it came to its end, and its tokens."""

    text: str
    whole: bool
    tokens_in: int
    tokens_out: int


class KeptAnswers:
    """Answers by key in one SQLite file; safe for threads, and for processes that share the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(
            path, timeout=60, isolation_level=None, check_same_thread=False
        )
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS kept "
            "(key TEXT PRIMARY KEY, text TEXT NOT NULL, whole INTEGER NOT NULL, tokens_in INTEGER NOT NULL, "
            "tokens_out INTEGER NOT NULL)"
        )

    def get(self, key: str) -> Kept | None:
        """Find an answer."""
        with self._lock:
            row = self._base.execute(
                "SELECT text, whole, tokens_in, tokens_out FROM kept WHERE key = ?", [key]
            ).fetchone()
        return Kept(row[0], bool(row[1]), row[2], row[3]) if row else None

    def put(self, key: str, answer: Kept) -> None:
        """Keep an answer; the first one under a key stays."""
        with self._lock:
            self._base.execute(
                "INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?)",
                [key, answer.text, answer.whole, answer.tokens_in, answer.tokens_out],
            )
