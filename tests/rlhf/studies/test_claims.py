import math
from collections.abc import Mapping

import pytest

from rlhf.studies.claims import START, Claim, Direction, Finding, interval, judge

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]


def test_interval_by_hand() -> None:
    # mean 2, sample variance 1, t(0.975, 2) = 4.302653: half width 4.302653 / sqrt(3)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert interval([5.0]) == (5.0, -math.inf, math.inf)
    assert interval([1.0, 1.0]) == (1.0, 1.0, 1.0)


def by_seed(values: list[float]) -> dict[int, dict[str, float]]:
    return {seed: {"kl_first": -8.0, "kl_last": value} for seed, value in enumerate(values)}


def compared(direction: Direction, left: list[float], right: list[float]) -> Finding:
    runs = {"a": by_seed(left), "b": by_seed(right)}
    finding = judge(Claim("", "kl_last", "a", "b", direction), runs)
    assert finding is not None
    return finding


@pytest.mark.parametrize(
    ("direction", "left", "right", "verdict"),
    [
        # by about 1 in every seed, though the seeds lie further apart
        ("higher", [2.0, 3.1, 4.0], [1.0, 2.0, 3.0], "agrees"),
        ("lower", [2.0, 3.1, 4.0], [1.0, 2.0, 3.0], "differs"),
        # 2.89 to 3.18, beyond a quarter of the change of 10
        ("same", [4.0, 5.1, 6.0], [1.0, 2.0, 3.0], "differs"),
        # 2.29 to 2.58: not 0, perhaps more than little
        ("same", [3.4, 4.5, 5.4], [1.0, 2.0, 3.0], "inside the noise"),
        ("higher", [2.0, 1.0, 3.0], [1.0, 2.0, 3.0], "inside the noise"),
        # anything from -3.5 to 4.1
        ("same", [3.0, 1.0, 3.0], [1.0, 2.0, 3.0], "inside the noise"),
        # -1 to 1; the change is 10 on average, a quarter of it 2.5
        ("same", [1.4, 1.6, 3.0], [1.0, 2.0, 3.0], "agrees"),
        # not 0, but little
        ("same", [1.1, 2.1, 3.1], [1.0, 2.0, 3.0], "agrees"),
        # one seed shows nothing
        ("lower", [0.0], [9.0], "inside the noise"),
    ],
)
def test_verdicts(
    direction: Direction, left: list[float], right: list[float], verdict: str
) -> None:
    assert compared(direction, left, right).verdict == verdict


def test_only_seeds_of_both_sides_count() -> None:
    runs: Runs = {
        "a": {1: {"kl": 1.0}, 2: {"kl": 2.0}, 3: {}},
        "b": {2: {"kl": 0.5}, 3: {"kl": 0.1}},
    }
    finding = judge(Claim("", "kl", "a", "b", "higher"), runs)
    assert finding is not None and (finding.seeds, finding.difference) == (1, 1.5)
    assert judge(Claim("", "kl", "a", "c", "higher"), runs) is None
    assert judge(Claim("", "reward", "a", "b", "higher"), runs) is None


def test_the_same_needs_to_know_where_the_other_side_began() -> None:
    runs: Runs = {
        "a": {1: {"kl_last": 1.0}, 2: {"kl_last": 1.0}},
        "b": {1: {"kl_last": 1.0}, 2: {"kl_last": 1.0}},
    }
    assert judge(Claim("", "kl_last", "a", "b", "same"), runs) is None
    with pytest.raises(ValueError, match="came nowhere"):
        Claim("little", "kl_last", "a", START, "same")
    with pytest.raises(ValueError, match="plain_text_loss has no start"):
        Claim("little", "plain_text_loss", "a", "b", "same")
    with pytest.raises(ValueError, match="plain_text_loss has no start"):
        Claim("falls", "plain_text_loss", "a", START, "lower")


def test_against_the_start_of_the_same_run() -> None:
    of_seeds = {seed: {"gold_first": 1.0, "gold_last": 1.0 - 0.1 * seed} for seed in (5, 6, 7)}
    runs: Runs = {"a": of_seeds}
    finding = judge(Claim("", "gold_last", "a", START, "lower"), runs)
    assert finding is not None and finding.verdict == "agrees"
    assert finding.difference == pytest.approx(-0.6)


def test_one_metric_of_an_arm_against_another() -> None:
    """As what five beams find against what one finds, seed by seed."""
    runs: Runs = {
        "a": {seed: {"five": 2.0 + seed, "one": 1.0 + seed + 0.1 * seed} for seed in range(3)}
    }
    finding = judge(Claim("", "five", "a", "a", "higher", "one"), runs)
    assert finding is not None
    assert (finding.difference, finding.verdict) == (pytest.approx(0.9), "agrees")
    with pytest.raises(ValueError, match="a baseline is of an arm"):
        Claim("", "five_last", "a", START, "higher", "one")
