from pathlib import Path

import pandas as pd
import pytest
from annotators import make_workspace, pair

from rlhf.annotation.store import Store, pairs_of
from rlhf.common.errors import DataError
from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.judges.people import PeopleJudge
from rlhf.evaluation.types import Case


def test_every_annotator_gets_every_pair_once_in_an_order_of_its_own(store: Store) -> None:
    orders = {}
    for name in ("Ada", "Bob"):
        seen = []
        while shown := store.next(name):
            seen.append(shown.pair.key)
            store.vote(shown.pair.key, name, "tie", 1.0)
        orders[name] = seen
    assert sorted(orders["Ada"]) == sorted(orders["Bob"]) == sorted(pair(n).key for n in range(6))
    assert orders["Ada"] != orders["Bob"]
    assert store.progress("Ada") == (6, 6) and store.progress("Eve") == (0, 6)


def test_sides_are_drawn_evenly_and_stay(tmp_path: Path) -> None:
    store = Store(tmp_path / "votes.db", 1)
    store.serve([pair(number) for number in range(200)])
    sides = [store.show(pair(number).key, "Ada").left for number in range(200)]
    assert 75 < sides.count("first") < 125
    assert sides == [store.show(pair(number).key, "Ada").left for number in range(200)]
    assert sides != [store.show(pair(number).key, "Bob").left for number in range(200)]


def test_skipped_pairs_come_back_at_the_end_and_the_last_vote_can_be_taken_back(
    store: Store,
) -> None:
    first = store.next("Ada")
    assert first is not None
    store.vote(first.pair.key, "Ada", "skip", 1.0)
    for _ in range(5):
        shown = store.next("Ada")
        assert shown is not None and shown.pair.key != first.pair.key
        store.vote(shown.pair.key, "Ada", "first", 1.0)
    again = store.next("Ada")
    assert again == first and store.progress("Ada") == (5, 6)
    assert store.undo("Ada") == shown.pair.key and store.next("Ada") == shown
    assert store.undo("Bob") is None


def test_what_stays_skipped_goes_round(store: Store) -> None:
    seen = []
    for _ in range(18):
        shown = store.next("Ada")
        assert shown is not None
        seen.append(shown.pair.key)
        store.vote(shown.pair.key, "Ada", "skip", 1.0)
    assert len(set(seen[:6])) == 6 and seen[:6] == seen[6:12] == seen[12:]


def test_only_the_pairs_of_the_present_models_are_shown_and_counted(
    store: Store, tmp_path: Path
) -> None:
    store.vote(pair(0).key, "Ada", "first", 1.0)
    store.serve([pair(7), pair(8)])
    shown = store.next("Ada")
    assert shown is not None and shown.pair.key in (pair(7).key, pair(8).key)
    assert store.progress("Ada") == (0, 2) and store.counts() == []
    assert store.export(tmp_path / "votes.jsonl") == 1  # what was voted before is not lost
    store.serve([pair(0)])
    assert store.next("Ada") is None and store.progress("Ada") == (1, 1)


def test_a_restart_with_another_seed_does_not_turn_the_sides(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "votes.db", 1), Store(tmp_path / "votes.db", 2)
    first.serve([pair(number) for number in range(30)])
    keys = [pair(number).key for number in range(30)]
    assert [first.show(key, "Ada") for key in keys] == [second.show(key, "Ada") for key in keys]


def test_kappa_of_annotators_who_agree_and_who_do_not(store: Store) -> None:
    assert store.kappa() is None
    for number in range(6):
        choice = "first" if number % 2 else "second"
        store.vote(pair(number).key, "Ada", choice, 1.0)
        store.vote(pair(number).key, "Bob", choice, 1.0)
    assert store.kappa() == 1.0
    store.vote(pair(0).key, "Bob", "first", 1.0)
    kappa = store.kappa()
    assert kappa is not None and 0 < kappa < 1
    assert store.counts() == [("Ada", 6), ("Bob", 6)]


def test_what_is_exported_is_a_judge(store: Store, tmp_path: Path) -> None:
    """Votes by response, whatever the side it stood on; skipped pairs and those never seen have no verdict."""
    choices = ("first", "second", "tie", "skip")
    for number, choice in enumerate(choices):
        store.vote(pair(number).key, "Ada", choice, 2.5)
    assert store.export(tmp_path / "votes.jsonl") == 3
    with pytest.raises(DataError, match="typo is no directory"):
        store.export(tmp_path / "typo" / "votes.jsonl")
    cases = [
        Case(str(n), "helpful", pair(n).messages, pair(n).first, pair(n).second, (), (), ())
        for n in range(5)
    ]
    found = judge_both_orders(PeopleJudge(tmp_path / "votes.jsonl"), cases)
    assert [item.outcome for item in found] == ["win", "lose", "tie", None, None]


def test_a_second_start_keeps_pairs_and_votes(tmp_path: Path) -> None:
    for _ in range(2):
        store = Store(tmp_path / "votes.db", 1)
        store.serve([pair(1)])
    store.vote(pair(1).key, "Ada", "first", 1.0)
    assert [vote.annotator for vote in Store(tmp_path / "votes.db", 1).votes()] == ["Ada"]


def test_pairs_of_a_workspace_without_equal_answers(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 4)
    assert len(pairs_of(workspace.comparisons, "policy", "sft")) == 4
    with pytest.raises(DataError, match="no comparison of sft with base; there are: policy sft"):
        pairs_of(workspace.comparisons, "sft", "base")
    with pytest.raises(DataError, match="no such file"):
        pairs_of(tmp_path / "none.parquet", "policy", "sft")
    table = pd.read_parquet(workspace.comparisons)
    pd.concat([table.assign(judge="gold"), table.assign(judge="rules")]).to_parquet(
        workspace.comparisons
    )
    assert (
        len(pairs_of(workspace.comparisons, "policy", "sft")) == 4
    )  # each once, however many judges
