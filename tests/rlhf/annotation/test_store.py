from pathlib import Path

import pytest
from annotators import make_pair

from rlhf.annotation.store import DisplayedPair, VoteStore
from rlhf.common.errors import DataError
from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.judges.people import PeopleJudge
from rlhf.evaluation.types import Case


def next_pair(store: VoteStore, annotator: str = "Ada") -> DisplayedPair:
    """The annotator's next pair, which there must be."""
    displayed = store.next_pair(annotator)
    assert displayed is not None
    return displayed


# -- which pair is next --


def test_every_annotator_gets_every_pair_once_in_an_order_of_their_own(store: VoteStore) -> None:
    orders = {}
    for name in ("Ada", "Bob"):
        keys = []
        while displayed := store.next_pair(name):
            keys.append(displayed.pair.key)
            store.add_vote(displayed.pair.key, name, "tie", 1.0)
        orders[name] = keys
    every_key = sorted(make_pair(number).key for number in range(6))
    assert sorted(orders["Ada"]) == sorted(orders["Bob"]) == every_key
    assert orders["Ada"] != orders["Bob"]
    assert store.progress("Ada") == (6, 6) and store.progress("Eve") == (0, 6)


def test_skipped_pairs_come_back_at_the_end(store: VoteStore) -> None:
    first = next_pair(store)
    store.add_vote(first.pair.key, "Ada", "skip", 1.0)
    for _ in range(5):
        displayed = next_pair(store)
        assert displayed.pair.key != first.pair.key
        store.add_vote(displayed.pair.key, "Ada", "first", 1.0)
    assert next_pair(store) == first
    assert store.progress("Ada") == (5, 6)


def test_pairs_that_stay_skipped_come_round_again(store: VoteStore) -> None:
    keys = []
    for _ in range(18):
        displayed = next_pair(store)
        keys.append(displayed.pair.key)
        store.add_vote(displayed.pair.key, "Ada", "skip", 1.0)
    assert len(set(keys[:6])) == 6
    assert keys[:6] == keys[6:12] == keys[12:]


def test_only_the_pairs_of_the_present_models_are_shown_and_counted(
    store: VoteStore, tmp_path: Path
) -> None:
    store.add_vote(make_pair(0).key, "Ada", "first", 1.0)
    store.serve([make_pair(7), make_pair(8)])
    assert next_pair(store).pair.key in (make_pair(7).key, make_pair(8).key)
    assert store.progress("Ada") == (0, 2) and store.vote_counts() == []
    # the earlier vote is not lost
    assert store.export(tmp_path / "votes.jsonl") == 1

    store.serve([make_pair(0)])
    assert store.next_pair("Ada") is None
    assert store.progress("Ada") == (1, 1)


# -- sides --


def test_sides_are_random_for_each_annotator_and_stay(tmp_path: Path) -> None:
    pairs = [make_pair(number) for number in range(200)]
    store = VoteStore(tmp_path / "votes.db", 1)
    store.serve(pairs)
    sides = [store.display(pair.key, "Ada").left for pair in pairs]
    assert 75 < sides.count("first") < 125
    assert sides == [store.display(pair.key, "Ada").left for pair in pairs]
    assert sides != [store.display(pair.key, "Bob").left for pair in pairs]


def test_a_restart_with_another_seed_does_not_turn_the_sides(tmp_path: Path) -> None:
    before = VoteStore(tmp_path / "votes.db", 1)
    after = VoteStore(tmp_path / "votes.db", 2)
    pairs = [make_pair(number) for number in range(30)]
    before.serve(pairs)
    sides = [before.display(pair.key, "Ada") for pair in pairs]
    assert sides == [after.display(pair.key, "Ada") for pair in pairs]


# -- votes --


def test_the_last_vote_can_be_taken_back(store: VoteStore) -> None:
    first = next_pair(store)
    store.add_vote(first.pair.key, "Ada", "first", 1.0)
    second = next_pair(store)
    store.add_vote(second.pair.key, "Ada", "second", 1.0)
    assert store.undo_vote("Ada") == second.pair.key
    assert next_pair(store) == second
    assert [vote.pair for vote in store.votes()] == [first.pair.key]
    assert store.undo_vote("Bob") is None


def test_a_second_start_has_the_pairs_and_votes_of_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        store = VoteStore(tmp_path / "votes.db", 1)
        store.serve([make_pair(1)])
    store.add_vote(make_pair(1).key, "Ada", "first", 1.0)
    assert [vote.annotator for vote in VoteStore(tmp_path / "votes.db", 1).votes()] == ["Ada"]


def test_kappa_of_annotators_who_agree_and_who_do_not(store: VoteStore) -> None:
    assert store.kappa() is None
    for number in range(6):
        choice = "first" if number % 2 else "second"
        store.add_vote(make_pair(number).key, "Ada", choice, 1.0)
        store.add_vote(make_pair(number).key, "Bob", choice, 1.0)
    assert store.kappa() == 1.0

    store.add_vote(make_pair(0).key, "Bob", "first", 1.0)
    kappa = store.kappa()
    assert kappa is not None and 0 < kappa < 1
    assert store.vote_counts() == [("Ada", 6), ("Bob", 6)]


def test_exported_votes_are_a_judge(store: VoteStore, tmp_path: Path) -> None:
    """Votes count for responses, whatever side they stood on; without a vote there is no verdict."""
    # the fourth pair is skipped, the fifth was never seen
    for number, choice in enumerate(("first", "second", "tie", "skip")):
        store.add_vote(make_pair(number).key, "Ada", choice, 2.5)
    assert store.export(tmp_path / "votes.jsonl") == 3

    pairs = [make_pair(number) for number in range(5)]
    cases = [
        Case(str(number), "helpful", pair.messages, pair.first, pair.second, (), (), ())
        for number, pair in enumerate(pairs)
    ]
    judgements = judge_both_orders(PeopleJudge(tmp_path / "votes.jsonl"), cases)
    assert [judgement.outcome for judgement in judgements] == ["win", "lose", "tie", None, None]


def test_an_export_without_votes_or_into_no_directory_is_refused(
    store: VoteStore, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no votes yet"):
        store.export(tmp_path / "votes.jsonl")
    with pytest.raises(DataError, match="typo is no directory"):
        store.export(tmp_path / "typo" / "votes.jsonl")
