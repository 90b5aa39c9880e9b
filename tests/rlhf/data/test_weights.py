"""Sources are mixed: shares of one, repeats of another."""

from collections import Counter
from collections.abc import Callable

import pytest
from split_rows import EMPTY, pair

from rlhf.common.errors import SettingsError
from rlhf.data.assign import assign_splits
from rlhf.data.ledger import Ledger
from rlhf.data.split import Candidate, candidates
from rlhf.settings.schema import Settings

Make = Callable[..., Settings]
SOURCES = ["path:many", "path:few"]


def weighted(make_settings: Make, weights: dict[str, float], ledger: Ledger) -> list[Candidate]:
    many = [pair(f"m{i}") for i in range(400)]
    few = [pair(f"f{i}", address=1) for i in range(100)]
    rows = {**EMPTY, "preferences": [*many, *few]}
    settings = make_settings(preferences=SOURCES, weights=weights)
    assignment = assign_splits(rows, settings.data, settings.seed)
    return candidates("preferences", rows, assignment, ledger)


def counts(found: list[Candidate]) -> Counter[tuple[str, bool]]:
    """By source, and whether the row is held out."""
    return Counter(
        (c.row.record.messages[0].content[0], c.split in ("test", "validation")) for c in found
    )  # type: ignore[union-attr]


def test_shares_are_drawn_and_rows_repeated(make_settings: Make) -> None:
    plain = counts(weighted(make_settings, {}, Ledger()))
    ledger = Ledger()
    found = weighted(make_settings, {"path:many": 0.25, "path:few": 2.5}, ledger)
    mixed = counts(found)
    # what is held out stays as it is
    assert all(mixed[name, True] == plain[name, True] for name in "mf")
    # three standard deviations
    assert abs(mixed["m", False] - 0.25 * plain["m", False]) < 25
    assert abs(mixed["f", False] - 2.5 * plain["f", False]) < 15
    assert ledger.counts["preferences", "data.jsonl", "not_drawn"] == (
        plain["m", False] - mixed["m", False]
    )
    assert not ledger.broken
    # each with an id of its own, in one split
    assert len({candidate.id for candidate in found}) == len(found)
    times = Counter(c.row.record.messages[0].content for c in found)  # type: ignore[union-attr]
    assert {times[text] for text in times if text[0] == "f"} == {1, 2, 3}


def test_a_weight_of_one_changes_nothing(make_settings: Make) -> None:
    one = {"path:many": 1.0}
    assert weighted(make_settings, one, Ledger()) == weighted(make_settings, {}, Ledger())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"path:other": 2.0}, "'path:other' is in none of the lists of addresses"),
        ({"path:many": 0.0}, "greater than 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    weights: dict[str, float], message: str, make_settings: Make
) -> None:
    with pytest.raises(SettingsError, match=message):
        make_settings(preferences=SOURCES, weights=weights)
