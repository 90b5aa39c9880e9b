import pytest

from rlhf.evaluation.agreement import agreement, cohen_kappa, fleiss_kappa


def test_cohens_kappa_by_hand() -> None:
    # observed 3/5; expected (3 * 2 + 2 * 2 + 0 * 1) / 25 = 0.4
    assert cohen_kappa(list("aaabb"), list("aabbc")) == pytest.approx((0.6 - 0.4) / 0.6)
    assert cohen_kappa(list("ab"), list("ab")) == 1
    assert cohen_kappa(list("ab"), list("ba")) == -1
    assert cohen_kappa(list("aa"), list("aa")) is None


def test_cohens_kappa_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    left, right = list("wwltlwltwwlltw"), list("wltlllwtwwtltl")
    assert cohen_kappa(left, right) == pytest.approx(metrics.cohen_kappa_score(left, right))


def test_fleiss_kappa_on_the_table_of_his_paper() -> None:
    """Ten items, fourteen raters, five categories: kappa 0.210 (the example of the article on Wikipedia)."""
    table = (
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    )  # fmt: skip
    votes = [[str(place) for place, count in enumerate(row) for _ in range(count)] for row in table]
    assert fleiss_kappa(votes) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([*votes, ["1"], []]) == fleiss_kappa(
        votes
    )  # a single vote agrees with nobody
    assert fleiss_kappa([["a", "a"], ["a"]]) is None


def test_agreement_counts_what_both_judged() -> None:
    found = agreement(["win", "lose", "tie", None, "win"], ["win", "win", "tie", "win", None])
    assert (found.pairs, found.accuracy, found.decided) == (3, 2 / 3, 0.5)
    assert agreement([None], ["win"]).pairs == 0
