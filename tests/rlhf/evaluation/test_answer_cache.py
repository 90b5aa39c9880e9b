import sqlite3
from pathlib import Path

from rlhf.evaluation.answer_cache import AnswerCache, CachedAnswer


def test_an_answer_comes_back_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.db"
    cache = AnswerCache(path)
    assert cache.get("key") is None
    cache.put("key", CachedAnswer("text", False, 3, 4))
    cache.put("key", CachedAnswer("another", True, 5, 6))
    assert AnswerCache(path).get("key") == CachedAnswer("text", False, 3, 4)


def test_what_older_versions_paid_for_is_read(tmp_path: Path) -> None:
    """The file as it was written from the first version on."""
    path = tmp_path / "answers.db"
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE kept (key TEXT PRIMARY KEY, text TEXT NOT NULL, whole INTEGER NOT NULL, "
            "tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL)"
        )
        database.execute("INSERT INTO kept VALUES ('old', 'paid for', 1, 400, 30)")
    cache = AnswerCache(path)
    assert cache.get("old") == CachedAnswer("paid for", True, 400, 30)
    cache.put("new", CachedAnswer("", True, 0, 0))
    assert cache.get("new") == CachedAnswer("", True, 0, 0)
