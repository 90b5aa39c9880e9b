"""The table of mutations stays true to the code; `python -m tests.mutations` runs it."""

import pytest

from tests.mutations import MUTATIONS
from tests.mutations.places import Mutation
from tests.source_tree import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.detail}: {one.what}")
def test_each_mutation_finds_its_place_and_its_tests(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1
    assert mutation.old != mutation.new
    for test in mutation.tests:
        assert (ROOT / test).is_file(), test


def test_no_mutation_is_there_twice() -> None:
    names = [(mutation.detail, mutation.what) for mutation in MUTATIONS]
    assert len(set(names)) == len(names)


def test_every_detail_of_the_paper_is_among_them() -> None:
    details = {mutation.detail.split()[0] for mutation in MUTATIONS}
    assert {str(number) for number in range(1, 13)} <= details


@pytest.mark.parametrize(
    "subject",
    [
        "APA",
        "pairs",
        "DPO",
        "RTO",
        "beam search",
        "process supervision",
        "random streams",
        "trunk",
        "1 final score",
        "rewards",
        "AWR",
        "rloo",
        "grpo",
        "reinforce-pp",
        "rows",
        "adapters",
    ],
)
def test_what_came_later_is_among_them(subject: str) -> None:
    assert any(mutation.detail == subject for mutation in MUTATIONS)
