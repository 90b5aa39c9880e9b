"""The table of mutations stays true to the code; `python -m tests.mutations` runs it."""

import pytest

from tests.mutations import MUTATIONS, Mutation
from tests.source_tree import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.detail}: {one.what}")
def test_each_mutation_finds_its_place_and_its_tests(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.old != mutation.new and all((ROOT / test).is_file() for test in mutation.tests)


def test_every_detail_of_the_paper_is_among_them() -> None:
    assert {str(number) for number in range(1, 13)} <= {one.detail.split()[0] for one in MUTATIONS}
