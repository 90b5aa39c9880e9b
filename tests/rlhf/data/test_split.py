from collections.abc import Callable
from typing import Any

import pytest
from split_rows import EMPTY, asked, make_row, pair, splits

from rlhf.common.errors import SettingsError
from rlhf.data.assign import assign_splits
from rlhf.data.ledger import Ledger
from rlhf.data.records import (
    Dialogue,
    Message,
    Prompt,
    Row,
)
from rlhf.data.split import candidates, check_limits, opening_of, uniform
from rlhf.settings.schema import Settings


def test_opening_ignores_case_blanks_and_punctuation() -> None:
    assert opening_of(asked("Hello, World!")) == opening_of(asked("hello  world"))
    assert opening_of(asked("Hello")) != opening_of(asked("Hallo"))
    assert opening_of(asked("???")) != opening_of(asked("!!!"))
    later = (Message("system", "x"), *asked("Hi"), Message("assistant", "y"), Message("user", "z"))
    assert opening_of(later) == opening_of(asked("hi"))


def test_published_test_openings_are_tested_on_everywhere(
    make_settings: Callable[..., Settings],
) -> None:
    rows = {
        "preferences": [
            pair("both sides", "train"),
            pair("both sides", "test", "better"),
            pair("train only", "train"),
        ],
        "sft": [make_row(Dialogue((*asked("Both sides?"), Message("assistant", "x"))), "sft")],
        "prompts": [
            make_row(Prompt(asked("both SIDES")), "prompts"),
            make_row(Prompt(asked("free")), "prompts"),
        ],
    }
    settings = make_settings(test_fraction=0, validation_fraction=0, gold_fraction=0)
    ledger = Ledger()
    assert splits("preferences", rows, settings, ledger) == {
        "both sides": "test",
        "train only": "train",
    }
    assert splits("sft", rows, settings, ledger) == {"Both sides?": "test"}
    assert splits("prompts", rows, settings, ledger) == {"free": "train"}
    assert ledger.counts == {
        ("preferences", "train.jsonl", "opening_in_test"): 1,
        ("prompts", "data.jsonl", "opening_in_test"): 1,
    }
    assert not ledger.broken


def test_evaluation_prompts_are_trained_on_nowhere(make_settings: Callable[..., Settings]) -> None:
    rows = {
        "evaluation": [make_row(Prompt(asked("secret")), "evaluation")],
        "preferences": [pair("secret"), pair("open")],
        "prompts": [
            make_row(Prompt(asked("secret")), "prompts"),
            make_row(Prompt(asked("open")), "prompts"),
        ],
    }
    settings = make_settings(test_fraction=0, validation_fraction=0, gold_fraction=0)
    assert splits("preferences", rows, settings) == {"secret": "test", "open": "train"}
    assert splits("prompts", rows, settings) == {"secret": "test", "open": "train"}


def test_evaluation_takes_only_the_test_file_of_a_published_source(
    make_settings: Callable[..., Settings],
) -> None:
    rows = {
        "evaluation": [
            make_row(Prompt(asked("a")), "evaluation", "train"),
            make_row(Prompt(asked("b")), "evaluation", "test"),
        ],
        "preferences": [pair("a", "train")],
    }
    ledger = Ledger()
    settings = make_settings(test_fraction=0, validation_fraction=0, gold_fraction=0)
    assert splits("prompts", rows, settings, ledger) == {"b": "test"}
    assert ledger.counts == {("evaluation", "train.jsonl", "published_split_not_used"): 1}
    assert splits("preferences", rows, settings) == {"a": "train"}


def test_a_source_with_train_files_alone_is_split_as_one_without_names(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(test_fraction=0.2, validation_fraction=0.1, gold_fraction=0.5)
    named, unnamed = (
        splits(
            "preferences", {"preferences": [pair(f"q{i}", published) for i in range(200)]}, settings
        )
        for published in ("train", None)
    )
    assert named == unnamed and "test" in named.values()
    asked_for = [make_row(Prompt(asked("a")), "evaluation", "train")]
    assert splits("prompts", {"evaluation": asked_for}, settings) == {"a": "test"}


def test_a_source_with_a_test_file_adds_no_further_test_openings(
    make_settings: Callable[..., Settings],
) -> None:
    published = [pair(f"p{i}", "train") for i in range(400)] + [pair("t", "test")]
    own = [pair(f"q{i}", address=1) for i in range(400)]
    settings = make_settings(test_fraction=0.2, validation_fraction=0.1, gold_fraction=0.5)
    found = splits("preferences", {"preferences": published + own}, settings)
    counts = {
        name: sum(split == name for text, split in found.items() if text[0] == "q")
        for name in ("test", "validation", "train", "gold")
    }
    assert {text for text, split in found.items() if split == "test" and text[0] != "q"} == {"t"}
    assert (
        55 <= counts["test"] <= 105 and 20 <= counts["validation"] <= 65
    )  # 80 and 40 expected, three standard deviations
    assert 105 <= counts["train"] <= 175 and 105 <= counts["gold"] <= 175


def test_only_preferences_have_a_gold_split_and_it_goes_by_opening(
    make_settings: Callable[..., Settings],
) -> None:
    rows = {
        "preferences": [pair(f"q{i}", answer=answer) for i in range(60) for answer in ("x", "y")],
        "sft": [
            make_row(Dialogue((*asked(f"q{i}"), Message("assistant", "x"))), "sft")
            for i in range(60)
        ],
    }
    settings = make_settings(test_fraction=0, validation_fraction=0)
    given = {**EMPTY, **rows}
    found = candidates(
        "preferences", given, assign_splits(given, settings.data, settings.seed), Ledger()
    )
    of_opening: dict[str, set[str]] = {}
    for candidate in found:
        of_opening.setdefault(candidate.opening, set()).add(candidate.split)
    assert {len(names) for names in of_opening.values()} == {1}
    assert set.union(*of_opening.values()) == {"train", "gold"}
    assert set(splits("sft", rows, settings).values()) == {"train"}


def test_duplicates_are_dropped_and_order_does_not_depend_on_that_of_files(
    make_settings: Callable[..., Settings],
) -> None:
    rows = [pair(f"q{i}") for i in range(30)]
    settings, ledger = make_settings(), Ledger()

    def order(given: list[Row]) -> list[str]:
        content = {**EMPTY, "preferences": given}
        return [
            c.id
            for c in candidates(
                "preferences", content, assign_splits(content, settings.data, settings.seed), ledger
            )
        ]

    assert order(rows) == order(rows[::-1]) == order(rows + rows[:5])
    assert ledger.counts == {("preferences", "data.jsonl", "duplicate"): 5}


def test_uniform_depends_on_all_of_its_arguments() -> None:
    assert uniform(1, "a", "b") == uniform(1, "a", "b")
    assert (
        len(
            {uniform(1, "a", "b"), uniform(2, "a", "b"), uniform(1, "c", "b"), uniform(1, "a", "d")}
        )
        == 4
    )


@pytest.mark.parametrize(
    "key",
    [
        "preferences",
        "preferences.dev",
        "pairs.train",
        "sft.gold",
        "sft.train.harmful",
        "sft.train.helpful.x",
    ],
)
def test_limits_of_unknown_tables_are_refused(key: str) -> None:
    limits: dict[str, Any] = {key: 3}
    with pytest.raises(SettingsError, match=rf"data.limits.{key}: unknown; .*known: sft.train"):
        check_limits(limits)


def test_known_limits_pass() -> None:
    check_limits({"preferences.gold.harmless": 1, "pretrain.train": 2, "prompts.test": 3})
