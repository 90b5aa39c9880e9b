import json
import random
from pathlib import Path

import pytest
from raw_files import fetch_address

from rlhf.common.errors import SourceError
from rlhf.data.sources.world import FAULTS, THINGS, draw_question, faulty_answer, good_answer


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Of 40 rows with seed 1: studies of one seed share their data, whatever the machine.
SHA256 = {
    "sft": "8504eb918ad608b96420850c91dbc13190f0db41c05dfbd55fa757760f2084e8",
    "preferences": "9cadc98a5e5c852b706c0d9fd1415fa885049ff6e3c34ad9118e547cfcb4ab6d",
    "prompts": "bd09df6a2943d9d6b883c645c45f2440bff1e737e2d73cd50ff995f1bff8600e",
    "evaluation": "5e4cc80c4a5901452c69de014dc409775fb8b580179fa6d7b8ead32357f31a03",
    "pretrain": "a9daa277bbe9046a4ceb90abff5ab0502dd078442c1ffd77bb0c73d0fbe8aa9c",
}


@pytest.mark.parametrize("use", SHA256)
def test_every_use_has_its_rows_the_same_each_time(use: str, tmp_path: Path) -> None:
    assert fetch_address("world:40", tmp_path, use) == SHA256[use]
    assert len(rows(tmp_path / f"{use}.jsonl")) == 40


@pytest.mark.parametrize("address", ["world:0", "world:", "world:many"])
def test_the_number_of_rows_is_checked(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected world:ROWS"):
        fetch_address(address, tmp_path, "sft")


def test_good_answers_are_true_and_refuse_harm() -> None:
    rng = random.Random(1)
    for _ in range(500):
        question = draw_question(rng)
        answer = good_answer(question, rng)
        if question.harmful:
            assert "will not help" in answer or "No, do not" in answer
        else:
            others = {
                fact for thing, facts in THINGS.items() if thing != question.thing for fact in facts
            }
            words = {word.rstrip(".") for word in answer.split()}
            assert not words & (others - set(THINGS[question.thing]) - {"light", "care", "water"})


def test_every_fault_differs_from_the_good_answers_and_no_rule_on_length_tells_them_apart() -> None:
    rng = random.Random(2)
    for name, fault in FAULTS.items():
        question = draw_question(rng)
        good = {good_answer(question, rng) for _ in range(300)}
        assert sum(fault(question, rng) in good for _ in range(30)) <= 3, name
    longer = 0
    for _ in range(4000):
        question = draw_question(rng)
        longer += len(good_answer(question, rng)) > len(faulty_answer(question, rng))
    assert 0.4 < longer / 4000 < 0.75
