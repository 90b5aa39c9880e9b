import json
import random
from pathlib import Path

import pytest
from raw_files import fetch_address

from rlhf.common.errors import SourceError
from rlhf.data.sources.world import FAULTS, THINGS, draw_question, faulty_answer, good_answer


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("use", ["sft", "preferences", "prompts", "evaluation", "pretrain"])
def test_every_use_has_its_rows_the_same_each_time(use: str, tmp_path: Path) -> None:
    first = fetch_address("world:40", tmp_path / "a", use)
    assert fetch_address("world:40", tmp_path / "b", use) == first
    assert len(rows(tmp_path / "a" / f"{use}.jsonl")) == 40


@pytest.mark.parametrize("address", ["world:0", "world:", "world:many"])
def test_the_number_of_rows_is_checked(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected world:ROWS"):
        fetch_address(address, tmp_path, "sft")


def test_good_answers_are_true_and_refuse_harm() -> None:
    chance = random.Random(1)
    for _ in range(500):
        question = draw_question(chance)
        answer = good_answer(question, chance)
        if question.harmful:
            assert "will not help" in answer or "No, do not" in answer
        else:
            others = {
                fact for thing, facts in THINGS.items() if thing != question.thing for fact in facts
            }
            told = {word.rstrip(".") for word in answer.split()}
            assert not told & (others - set(THINGS[question.thing]) - {"light", "care", "water"})


def test_every_fault_differs_from_the_good_answers_and_no_rule_on_length_tells_them_apart() -> None:
    chance = random.Random(2)
    for name, fault in FAULTS.items():
        question = draw_question(chance)
        good = {good_answer(question, chance) for _ in range(300)}
        assert sum(fault(question, chance) in good for _ in range(30)) <= 3, name
    longer = 0
    for _ in range(4000):
        question = draw_question(chance)
        longer += len(good_answer(question, chance)) > len(faulty_answer(question, chance))
    assert 0.4 < longer / 4000 < 0.75
