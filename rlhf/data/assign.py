"""Which openings and texts are held out, and that no split which a stage needs is left empty."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rlhf.data.ledger import Ledger
from rlhf.data.records import PlainText, Row
from rlhf.data.split import (
    SplitAssignment,
    opening_of_row,
    record_id,
    source_of,
    sources_with,
    uniform,
)
from rlhf.settings.schema import Data

log = logging.getLogger(__name__)

# The uses whose rows are trained on, prompts of PPO included.
_TRAINED = ("sft", "preferences", "prompts", "steps")
# Those that draw what they are tested on from their own rows.
_TESTED = ("sft", "preferences", "steps")


def assign_splits(rows: Mapping[str, Sequence[Row]], data: Data, seed: int) -> SplitAssignment:
    """Decide what is held out, over all tables at once.

    Tested on are all of `evaluation`, all of published test files, and `test_fraction` of the openings
    in sft, preferences and steps sources that have no test file of their own. Of an evaluation
    source that has a test file, only that file counts. Of the other openings, those of published
    validation files are for validation, and `validation_fraction` of those in other sources.

    Where a table would have nothing to validate or to test on, a share of its openings is held out.
    """
    opened = _Opened({use: [(row, opening_of_row(row)) for row in rows[use]] for use in _DIALOGUES})
    draw = _Draw(data, seed)

    # 1. what files and fractions say
    test = _drawn_tests(opened, draw) | _evaluated(opened, draw)
    validation = _drawn_validation(opened, draw) - test

    # 2. no split is empty; the test of SFT is no stage's
    for use in ("preferences", "steps"):
        test |= draw.to_fill("test", use, opened.of(use), test, validation)
    for use in _TRAINED:
        validation |= draw.to_fill("validation", use, opened.of(use), validation - test, test)

    trained = opened.of("preferences") - test - validation
    return SplitAssignment(
        test_openings=frozenset(test),
        validation_openings=frozenset(validation),
        gold_openings=frozenset(_gold(trained, draw)),
        validation_texts=frozenset(_validation_texts(rows["pretrain"], draw)),
        seed=seed,
        data=data,
    )


_DIALOGUES = (*_TRAINED, "evaluation")


@dataclass(frozen=True)
class _Opened:
    """The rows of dialogues with their openings, by use."""

    rows: Mapping[str, Sequence[tuple[Row, str]]]

    def of(self, *uses: str) -> set[str]:
        """All openings of some uses."""
        return {opening for use in uses for _, opening in self.rows[use]}

    def with_file(self, split: str) -> set[tuple[str, int]]:
        """The sources that have a file of a published split."""
        return sources_with(split, (row for rows in self.rows.values() for row, _ in rows))


@dataclass(frozen=True)
class _Draw:
    """The numbers that openings have, and the fractions that they are compared with."""

    data: Data
    seed: int

    def number(self, text: str) -> float:
        """In [0, 1): it decides the split of an opening or of a text."""
        return uniform(self.seed, "split", text)

    def is_tested(self, opening: str) -> bool:
        """Whether the number says test."""
        return self.number(opening) < self.data.test_fraction

    def is_validated(self, opening: str) -> bool:
        """Whether the number says validation.

        Numbers below `test_fraction` mean test, but not in a source that has its own test file:
        there such openings are trained on.
        """
        start = self.data.test_fraction
        return start <= self.number(opening) < start + self.data.validation_fraction

    def lowest(self, texts: Collection[str], fraction: float, *, leave: int = 1) -> set[str]:
        """A share of texts, those with the lowest numbers: at least one, where so many are left."""
        count = min(max(1, round(fraction * len(texts))), len(texts) - leave)
        return set(sorted(texts, key=self.number)[: max(0, count)])

    def to_fill(
        self, split: str, use: str, openings: set[str], held: set[str], other: set[str]
    ) -> set[str]:
        """What to hold out of a table that has no opening in a split, and should have some.

        held: the openings of the split; other: those of the other one that is held out
        """
        fraction = getattr(self.data, f"{split}_fraction")
        if not openings or openings & held or not fraction:
            return set()
        trained = openings - other
        # the gold model and the other reward model have openings of their own
        found = self.lowest(trained, fraction, leave=2 if use == "preferences" else 1)
        log.warning(
            "data.%s: none of %d openings fell to %s by data.%s_fraction: %d held out",
            use,
            len(openings),
            split,
            split,
            len(found),
        )
        return found


def _drawn_tests(opened: _Opened, draw: _Draw) -> set[str]:
    with_file = opened.with_file("test")
    tested = set()
    for use in _TESTED:
        for row, opening in opened.rows[use]:
            is_drawn = source_of(row) not in with_file and draw.is_tested(opening)
            if is_drawn or row.published_split == "test":
                tested.add(opening)
    return tested


def _evaluated(opened: _Opened, draw: _Draw) -> set[str]:
    """The openings of `evaluation`.

    Where it has all that a table could be trained on, as one file for everything has, it gives up
    all of what it shares with tables but a share.
    """
    with_file = opened.with_file("test")
    evaluated = {
        opening
        for row, opening in opened.rows["evaluation"]
        if row.published_split == "test" or source_of(row) not in with_file
    }
    emptied = [use for use in _TRAINED if opened.of(use) and opened.of(use) <= evaluated]
    if not emptied:
        return evaluated

    shared = evaluated & opened.of(*_TRAINED)
    held = draw.lowest(shared, draw.data.test_fraction)
    log.warning(
        "data.evaluation has every opening of data.%s: %d of %d are held out for it, by "
        "data.test_fraction; the others are trained on",
        ", data.".join(emptied),
        len(held),
        len(shared),
    )
    return (evaluated - shared) | held


def _drawn_validation(opened: _Opened, draw: _Draw) -> set[str]:
    with_file = opened.with_file("validation")
    validated = set()
    for use in _DIALOGUES:
        for row, opening in opened.rows[use]:
            is_drawn = source_of(row) not in with_file and draw.is_validated(opening)
            if is_drawn or row.published_split == "validation":
                validated.add(opening)
    return validated


def _gold(trained: set[str], draw: _Draw) -> set[str]:
    """The preference openings that are the gold model's: some, and not all, where that can be."""
    fraction = draw.data.gold_fraction
    numbers = {opening: uniform(draw.seed, "gold", opening) for opening in trained}
    gold = {opening for opening, number in numbers.items() if number < fraction}
    ordered = sorted(trained, key=numbers.__getitem__)
    if not gold and fraction > 0 and len(trained) > 1:
        gold = {ordered[0]}
    if gold == trained and fraction < 1 and len(trained) > 1:
        gold -= {ordered[-1]}
    return gold


# -- plain text --


def _validation_texts(rows: Sequence[Row], draw: _Draw) -> set[str]:
    with_file = sources_with("validation", rows)
    sizes: dict[str, int] = {}
    validated = set()
    for row in rows:
        text_id = record_id(row.record)
        sizes[text_id] = len(_text_of(row))
        is_drawn = source_of(row) not in with_file
        if row.published_split == "validation" or (
            is_drawn and draw.number(text_id) < draw.data.validation_fraction
        ):
            validated.add(text_id)
    if validated or not draw.data.validation_fraction:
        return validated

    # a text that is most of what there is stays to be trained on
    short = [text_id for text_id, size in sizes.items() if 2 * size <= sum(sizes.values())]
    leave = 1 if len(short) == len(sizes) else 0
    return draw.lowest(short, draw.data.validation_fraction, leave=leave)


def with_single_text_cut(rows: Sequence[Row], data: Data, ledger: Ledger) -> list[Row]:
    """Of a single text the end is held out; any other texts stay as they are.

    The two parts together are the text. The cut is at the last line end or blank before the share.
    """
    texts = {_text_of(row) for row in rows}
    if len(texts) != 1 or not data.validation_fraction:
        return list(rows)

    (text,) = texts
    place = _cut(text, round((1 - data.validation_fraction) * len(text)))
    if not text[:place].strip() or not text[place:].strip():
        return list(rows)
    ledger.note(rows[0].use, "text_cut_to_hold_out")
    log.warning(
        "data.%s: one text: its last %d characters are held out", rows[0].use, len(text) - place
    )
    begin, end = PlainText(text[:place]), PlainText(text[place:])
    cut: list[Row] = []
    for row in rows:
        cut.append(replace(row, record=begin, published_split="train"))
        cut.append(replace(row, record=end, published_split="validation"))
    return cut


def _cut(text: str, place: int) -> int:
    """The place behind the last paragraph, line or word that ends before `place`."""
    for end in ("\n\n", "\n", " "):
        found = text.rfind(end, 0, place)
        # not so far off that the share would be another one
        if found > place / 2:
            return found + len(end)
    return place


def _text_of(row: Row) -> str:
    assert isinstance(row.record, PlainText)
    return row.record.text
