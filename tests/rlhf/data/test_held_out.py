"""Small data, one file for everything, one long text: no split that a stage needs is left empty."""

from collections.abc import Callable

import pytest
from split_rows import EMPTY, asked, make_row, pair, splits

from rlhf.data.assign import assign_splits, with_single_text_cut
from rlhf.data.ledger import Ledger
from rlhf.data.records import Dialogue, Message, Pair, PlainText, Prompt, PublishedSplit, Row
from rlhf.data.split import candidates
from rlhf.settings.schema import Settings

Make = Callable[..., Settings]


def texts(*contents: str) -> list[Row]:
    return [make_row(PlainText(content), "pretrain") for content in contents]


def splits_of_texts(rows: list[Row], settings: Settings) -> dict[str, str]:
    return splits("pretrain", {"pretrain": rows}, settings)


@pytest.mark.parametrize("count", [4, 6, 12, 40])
def test_few_pairs_serve_every_split(count: int, make_settings: Make) -> None:
    for seed in range(12):
        settings = make_settings(test_fraction=0.1, validation_fraction=0.05, gold_fraction=0.5)
        settings = settings.model_copy(update={"seed": seed})
        dialogues = [
            make_row(Dialogue((*asked(f"q{i}"), Message("assistant", "x"))), "sft")
            for i in range(count)
        ]
        prompts = [make_row(Prompt(asked(f"q{i}")), "prompts") for i in range(count)]
        rows = {
            "sft": dialogues,
            "preferences": [pair(f"q{i}") for i in range(count)],
            "prompts": prompts,
            "evaluation": [make_row(Prompt(asked("another")), "evaluation")],
        }
        found = splits("preferences", rows, settings)
        assert set(found.values()) == {"train", "gold", "validation", "test"}
        for table, needed in (("sft", {"train", "validation"}), ("prompts", {"train", "test"})):
            of_table = splits(table, rows, settings)
            assert needed <= set(of_table.values())
            # an opening is in one split over all tables
            for text, split in of_table.items():
                expected = found.get(text, "test")
                assert split == ("train" if expected == "gold" else expected)


def test_a_fraction_that_is_met_already_moves_nothing(make_settings: Make) -> None:
    """The numbers of openings alone decide, whatever else is in the data."""
    settings = make_settings(test_fraction=0.2, validation_fraction=0.1)
    many = splits("preferences", {"preferences": [pair(f"q{i}") for i in range(300)]}, settings)
    more = splits("preferences", {"preferences": [pair(f"q{i}") for i in range(400)]}, settings)
    assert {text: more[text] for text in many} == many


def test_none_is_held_out_where_the_settings_say_so(make_settings: Make) -> None:
    settings = make_settings(test_fraction=0, validation_fraction=0, gold_fraction=0)
    found = splits("preferences", {"preferences": [pair(f"q{i}") for i in range(9)]}, settings)
    assert set(found.values()) == {"train"}


@pytest.mark.parametrize("count", [8, 120])
def test_one_file_for_everything_keeps_a_share_for_evaluation(
    count: int, make_settings: Make
) -> None:
    settings = make_settings(test_fraction=0.1, validation_fraction=0.1, gold_fraction=0.5)
    records = [Pair(asked(f"q{i}"), "good", "bad") for i in range(count)]
    rows = {
        "sft": [
            make_row(Dialogue((*r.messages, Message("assistant", "x"))), "sft") for r in records
        ],
        "preferences": [make_row(record, "preferences") for record in records],
        "prompts": [make_row(Prompt(record.messages), "prompts") for record in records],
        "evaluation": [make_row(Prompt(record.messages), "evaluation") for record in records],
    }
    ledger = Ledger()
    prompts = splits("prompts", rows, settings, ledger)
    tested = {text for text, split in prompts.items() if split == "test"}
    assert len(tested) == max(1, round(0.1 * count)) or 0.03 * count < len(tested) < 0.2 * count
    assert set(prompts.values()) == {"train", "validation", "test"}
    # the others are told, and no fault
    assert ledger.counts["evaluation", "data.jsonl", "not_held_out"] == count - len(tested)
    assert not ledger.broken
    for table in ("sft", "preferences"):
        of_table = splits(table, rows, settings)
        assert {text for text, split in of_table.items() if split == "test"} == tested
        assert {"train", "validation"} <= set(of_table.values())


def test_evaluation_that_leaves_something_to_train_on_is_tested_on_whole(
    make_settings: Make,
) -> None:
    rows = {
        "preferences": [pair(f"q{i}") for i in range(30)],
        "evaluation": [make_row(Prompt(asked(f"q{i}")), "evaluation") for i in range(29)],
    }
    found = splits("preferences", rows, make_settings())
    assert [text for text, split in found.items() if split != "test"] == ["q29"]


def test_published_validation_files_are_for_validation(make_settings: Make) -> None:
    settings = make_settings(test_fraction=0, validation_fraction=0.3, gold_fraction=0)
    published: list[tuple[str, PublishedSplit]] = [(f"p{i}", "train") for i in range(50)]
    rows = {
        "preferences": [
            *(pair(text, split) for text, split in [*published, ("v", "validation")]),
            *(pair(f"q{i}", address=1) for i in range(50)),
        ],
        "sft": [make_row(Dialogue((*asked("V!"), Message("assistant", "x"))), "sft")],
    }
    found = splits("preferences", rows, settings)
    held = {text for text, split in found.items() if split == "validation"}
    # of that source no others, of the other source its share
    assert "v" in held and not any(text.startswith("p") for text in held)
    assert 5 <= sum(text.startswith("q") for text in held) <= 25
    assert splits("sft", rows, settings) == {"V!": "validation"}


# -- plain text ------------------------------------------------------------------------------------


def test_a_single_text_gives_its_end_to_validation(make_settings: Make) -> None:
    book = "".join(f"In the year {year} the harbour had one lamp.\n\n" for year in range(200))
    line = "word " * 400
    for text in (book, line, "x" * 1000):
        ledger = Ledger()
        data = make_settings(validation_fraction=0.1).data
        begin, end = with_single_text_cut(texts(text), data, ledger)
        assert isinstance(begin.record, PlainText) and isinstance(end.record, PlainText)
        assert begin.record.text + end.record.text == text
        assert 0.05 < len(end.record.text) / len(text) < 0.2
        found = splits_of_texts([begin, end], make_settings(validation_fraction=0.1))
        assert found == {begin.record.text: "train", end.record.text: "validation"}
        assert ledger.notes == {("pretrain", "text_cut_to_hold_out"): 1}
    # a cut behind a paragraph
    begin, _ = with_single_text_cut(
        texts(book), make_settings(validation_fraction=0.1).data, Ledger()
    )
    assert isinstance(begin.record, PlainText) and begin.record.text.endswith("lamp.\n\n")


def test_several_texts_stay_whole(make_settings: Make) -> None:
    data = make_settings(validation_fraction=0.1).data
    rows = texts("one", "two")
    assert with_single_text_cut(rows, data, Ledger()) == rows
    assert with_single_text_cut([], data, Ledger()) == []
    none = make_settings(validation_fraction=0).data
    assert with_single_text_cut(texts("a b c"), none, Ledger()) == texts("a b c")


@pytest.mark.parametrize(
    "contents", [["short", "a long one " * 50], [f"text {i}" for i in range(7)], ["ab", "cd"]]
)
def test_few_texts_are_trained_on_and_validated_on(
    contents: list[str], make_settings: Make
) -> None:
    for seed in range(8):
        settings = make_settings(validation_fraction=0.01).model_copy(update={"seed": seed})
        found = splits_of_texts(texts(*contents), settings)
        assert set(found.values()) == {"train", "validation"}
        # most of it is trained on
        held = sum(len(text) for text, split in found.items() if split == "validation")
        assert 2 * held <= sum(map(len, contents))


def test_repeated_rows_are_held_out_together(make_settings: Make) -> None:
    rows = {**EMPTY, "preferences": [pair(f"q{i % 5}", answer=f"a{i}") for i in range(20)]}
    settings = make_settings()
    found = candidates(
        "preferences", rows, assign_splits(rows, settings.data, settings.seed), Ledger()
    )
    of_opening: dict[str, set[str]] = {}
    for candidate in found:
        of_opening.setdefault(candidate.opening, set()).add(candidate.split)
    assert {len(names) for names in of_opening.values()} == {1}
    assert set.union(*of_opening.values()) == {"train", "gold", "validation", "test"}
