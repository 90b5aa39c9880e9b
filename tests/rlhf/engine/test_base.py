import pytest

from rlhf.engine.base import learning_rate, share
from rlhf.settings.training import Optimizer


def rates(total: int, **settings: object) -> list[float]:
    optimizer = Optimizer.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate(optimizer, step, total) for step in range(total)]


def test_warmup_is_linear_and_ends_at_the_peak() -> None:
    expected = [0.25, 0.5, 0.75, 1.0] + [1.0] * 6
    assert rates(10, warmup_fraction=0.4, decay="constant") == pytest.approx(expected)


def test_cosine_by_hand() -> None:
    # after one warm-up step, progress runs 0, 1/4, 1/2, 3/4, 1;
    # half-cosine 1, (1+√½)/2, 1/2, (1-√½)/2, 0
    root = 0.5**0.5
    cosine = [1.0, (1 + root) / 2, 0.5, (1 - root) / 2, 0.0]
    expected = [1.0, *(0.2 + 0.8 * value for value in cosine)]
    assert rates(6, warmup_fraction=1 / 6, final_fraction=0.2) == pytest.approx(expected)


def test_inverse_square_root_by_hand() -> None:
    # two warm-up steps, then √(2 / (step + 1))
    expected = [0.5, 1.0, (2 / 3) ** 0.5, (2 / 4) ** 0.5]
    assert rates(4, warmup_fraction=0.5, decay="inverse_sqrt") == pytest.approx(expected)


def test_no_warmup_and_one_step() -> None:
    assert rates(1, warmup_fraction=0.0) == [1.0]
    expected = [1.0, 0.5**0.5, (1 / 3) ** 0.5]
    assert rates(3, warmup_fraction=0.0, decay="inverse_sqrt") == pytest.approx(expected)


@pytest.mark.parametrize("decay", ["cosine", "constant", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_rates_stay_within_the_peak(decay: str, warmup: float) -> None:
    assert all(0 < rate <= 1 for rate in rates(7, decay=decay, warmup_fraction=warmup))


@pytest.mark.parametrize(("count", "world"), [(1, 3), (4, 2), (5, 2), (7, 4)])
def test_share_gives_everything_once_and_equally_many(count: int, world: int) -> None:
    batches = [[index] for index in range(count)]
    parts = [share(batches, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    entries = [entry for part in parts for entry in part]
    assert all(weight in (0.0, 1.0) for _, weight in entries)
    counted = [items[0] for items, weight in entries if weight == 1.0]
    assert sorted(counted) == list(range(count))
