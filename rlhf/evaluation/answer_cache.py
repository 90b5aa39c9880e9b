"""The answers of endpoints on disk: paid for once, whatever becomes of the run that asked."""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

# The names of table and columns stay: answers that older versions paid for are read by them.
_CREATE = (
    "CREATE TABLE IF NOT EXISTS kept "
    "(key TEXT PRIMARY KEY, text TEXT NOT NULL, whole INTEGER NOT NULL, "
    "tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL)"
)
_SELECT = "SELECT text, whole, tokens_in, tokens_out FROM kept WHERE key = ?"
_INSERT = "INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class CachedAnswer:
    """One answer of an endpoint, and the tokens that it was billed for.

    text: "" where the endpoint refused to give any; finished: False where it was cut off
    """

    text: str
    finished: bool
    tokens_in: int
    tokens_out: int


class AnswerCache:
    """Answers by key in one SQLite file; threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # another process may write at the same time: wait for it
        self._database = sqlite3.connect(
            path,
            timeout=60,
            # autocommit: an answer is on disk at once
            isolation_level=None,
            check_same_thread=False,
        )
        # readers and a writer do not wait for each other
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(_CREATE)

    def get(self, key: str) -> CachedAnswer | None:
        """The answer under a key, None without one."""
        with self._lock:
            row = self._database.execute(_SELECT, [key]).fetchone()
        if row is None:
            return None
        text, finished, tokens_in, tokens_out = row
        return CachedAnswer(text, bool(finished), tokens_in, tokens_out)

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Store an answer; the first one under a key stays."""
        row = [key, answer.text, answer.finished, answer.tokens_in, answer.tokens_out]
        with self._lock:
            self._database.execute(_INSERT, row)
