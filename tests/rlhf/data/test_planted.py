import json
import re
from pathlib import Path
from random import Random

import pytest
from raw_files import fetch_address

from rlhf.common.errors import SourceError
from rlhf.data.sources.planted import WORDS, planted
from rlhf.data.sources.world import draw_question, good_answer

# Of 40 rows with seed 1: studies of one seed share their data, whatever the machine.
SHA256 = "e5852bd2c3b4dd83be2ffe1c8c1f42cf0263fcb8dfb45ed372cdd102786ad3fa"


def words(text: str) -> list[str]:
    return re.findall("[A-Za-z]+", text)


def test_the_rows_are_the_same_each_time(tmp_path: Path) -> None:
    assert fetch_address("planted:40", tmp_path, "preferences") == SHA256
    rows = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    assert all(set(row) == {"kind", "messages", "chosen", "rejected"} for row in rows)
    assert len({row["chosen"] for row in rows}) > 30


def test_one_word_is_another_of_the_world_and_all_else_stays() -> None:
    random = Random(1)
    places = set()
    for _ in range(500):
        good = good_answer(draw_question(random), random)
        wrong = planted(good, random)
        pairs = list(zip(words(good), words(wrong), strict=True))
        (place,) = [at for at, (one, other) in enumerate(pairs) if one != other]
        one, other = pairs[place]
        assert other.lower() in WORDS and other.lower() != one.lower()
        assert one[0].isupper() == other[0].isupper()
        assert re.split("[A-Za-z]+", good) == re.split("[A-Za-z]+", wrong)
        places.add("first" if place == 0 else "last" if place == len(pairs) - 1 else "within")
    assert places == {"first", "within", "last"}


@pytest.mark.parametrize("address", ["planted:0", "planted:", "planted:many"])
def test_the_number_of_rows_is_checked(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected planted:ROWS"):
        fetch_address(address, tmp_path, "preferences")


@pytest.mark.parametrize("use", ["sft", "prompts", "evaluation", "pretrain", "steps"])
def test_there_are_pairs_alone(use: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"planted:3: has nothing for data\.{use}"):
        fetch_address("planted:3", tmp_path, use)
