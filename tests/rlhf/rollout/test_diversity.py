import pytest

from rlhf.rollout.diversity import distinct_2


def test_distinct_2_by_hand() -> None:
    # bigrams: 12 23 | 12 21 12: five, three of them different
    assert distinct_2([[1, 2, 3], [1, 2, 1, 2]]) == pytest.approx(3 / 5)
    assert distinct_2([[1], []]) is None
    assert distinct_2([[7] * 11]) == pytest.approx(1 / 10)
