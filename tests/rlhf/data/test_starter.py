"""What the data card of the starter data promises."""

import itertools
import json
import random
import re
from collections import Counter
from typing import Any

import pytest

from rlhf.data.clean import clean_text
from rlhf.data.figures import longer_wins_accuracy
from rlhf.data.parse import parse_row
from rlhf.data.records import Pair, PlainText, Prompt
from rlhf.data.sources.starter import starter_file
from rlhf.data.split import opening_of

FAULTS = {
    "wrong",
    "evasive",
    "rambling",
    "rude",
    "preachy",
    "unsafe",
    "overrefusal",
    "incomplete",
    "offtopic",
}
COMMON = set(
    [
        "a",
        "an",
        "the",
        "i",
        "my",
        "me",
        "you",
        "your",
        "to",
        "of",
        "in",
        "on",
        "for",
        "is",
        "it",
        "do",
        "does",
        "how",
        "what",
        "why",
        "can",
        "could",
        "should",
        "would",
        "and",
        "or",
    ]
)


def rows_of(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in starter_file(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def content() -> dict[str, list[dict[str, Any]]]:
    return {name: rows_of(name) for name in ("pairs", "prompts", "evaluation", "pretrain")}


def test_there_is_enough_of_it_half_of_each_kind(content: dict[str, list[dict[str, Any]]]) -> None:
    for name, least in (("pairs", 800), ("prompts", 400), ("evaluation", 120)):
        kinds = Counter(row["kind"] for row in content[name])
        assert kinds.total() >= least and set(kinds) == {"helpful", "harmless"}
        assert abs(kinds["helpful"] - kinds["harmless"]) <= 0.03 * kinds.total()
    assert len(content["pretrain"]) >= 90


def test_length_does_not_give_the_answer_away(content: dict[str, list[dict[str, Any]]]) -> None:
    for kind in ("helpful", "harmless"):
        accuracy = longer_wins_accuracy([row for row in content["pairs"] if row["kind"] == kind])
        assert accuracy is not None and 0.45 <= accuracy <= 0.55


def length_band_accuracy(pairs: list[tuple[int, int]], seed: int) -> float:
    """How often the best rule on length bands, learned on one half of (chosen, rejected) lengths, is right on the other."""
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    half = len(pairs) // 2
    right = 0.0
    for known, asked in ((shuffled[:half], shuffled[half:]), (shuffled[half:], shuffled[:half])):
        chosen, rejected = (Counter(min(pair[side] // 20, 20) for pair in known) for side in (0, 1))
        odds = {band: (chosen[band] + 1) / (rejected[band] + 1) for band in range(21)}
        for pair in asked:
            won, lost = (odds[min(length // 20, 20)] for length in pair)
            right += 1.0 if won > lost else 0.5 * (won == lost)
    return right / len(pairs)


def test_no_rule_on_length_does_well(content: dict[str, list[dict[str, Any]]]) -> None:
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in content["pairs"]]
    assert sum(length_band_accuracy(lengths, seed) for seed in range(5)) / 5 < 0.70
    told_apart = [
        (100 + i % 40, 40 + 160 * (i % 2)) for i in range(800)
    ]  # rejected ones very short or very long
    assert length_band_accuracy(told_apart, 0) > 0.95  # the check sees what "longer wins" does not


def test_every_row_parses_and_is_clean(content: dict[str, list[dict[str, Any]]]) -> None:
    for name, shape in (
        ("pairs", Pair),
        ("prompts", Prompt),
        ("evaluation", Prompt),
        ("pretrain", PlainText),
    ):
        for row in content[name]:
            record = parse_row(row).record
            assert isinstance(record, shape)
            texts = [message["content"] for message in row.get("messages", [])] + [
                row[k] for k in ("chosen", "rejected", "text") if k in row
            ]
            assert all(
                text == clean_text(text, ("html", "characters", "blanks")) for text in texts
            ), row["id"]


def test_pairs_name_their_fault_and_answers_are_short(
    content: dict[str, list[dict[str, Any]]],
) -> None:
    assert {row["fault"] for row in content["pairs"]} == FAULTS
    assert all(
        len(row["chosen"].split()) <= 60 and len(row["rejected"].split()) <= 85
        for row in content["pairs"]
    )
    several_turns = sum(len(row["messages"]) > 1 for row in content["pairs"]) / len(
        content["pairs"]
    )
    assert 0.2 <= several_turns <= 0.3


def test_ids_openings_and_answers_are_unique(content: dict[str, list[dict[str, Any]]]) -> None:
    rows = list(itertools.chain.from_iterable(content.values()))
    asked = [
        opening_of(parse_row(row).record.messages)
        for name in ("pairs", "prompts", "evaluation")
        for row in content[name]
    ]  # type: ignore[union-attr]
    for values in (
        [row["id"] for row in rows],
        asked,
        [row["chosen"] for row in content["pairs"]],
        [row["text"] for row in content["pretrain"]],
    ):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_no_evaluation_prompt_is_another_one_in_other_words(
    content: dict[str, list[dict[str, Any]]],
) -> None:
    def words(row: dict[str, Any]) -> set[str]:
        return set(re.findall(r"\w+", row["messages"][0]["content"].casefold())) - COMMON

    trained = [words(row) for name in ("pairs", "prompts") for row in content[name]]
    for row in content["evaluation"]:
        own = words(row)
        assert all(len(own & other) < 0.6 * len(own | other) for other in trained), row["id"]


def test_the_card_gives_the_counts(content: dict[str, list[dict[str, Any]]]) -> None:
    card = starter_file("README.md").read_text(encoding="utf-8")
    for name in ("pairs", "prompts", "evaluation"):
        kinds = Counter(row["kind"] for row in content[name])
        assert (
            f"| `{name}.jsonl` | {kinds.total()} | {kinds['helpful']} | {kinds['harmless']} |"
            in card
        )
    assert f"| `pretrain.jsonl` | {len(content['pretrain'])} |" in card
    faults = Counter((row["fault"], row["kind"]) for row in content["pairs"])
    for fault in FAULTS:
        assert f"| {fault} | {faults[fault, 'helpful']} | {faults[fault, 'harmless']} |" in card
