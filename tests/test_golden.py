"""A refactor moves no number: the tiny models against what was logged before."""

import copy
import json
from typing import Any

import pytest

from tests.golden import FILE, RUNS, differences, run_apart

STORED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def test_no_number_moves() -> None:
    done = run_apart()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 moved" in done.stdout


# -- what would be noticed ----------------------------------------------------------------------


@pytest.fixture
def run() -> dict[str, Any]:
    """What `every detail` shows, to be changed."""
    return copy.deepcopy(STORED["every detail"])


def moved(run: dict[str, Any]) -> list[str]:
    return differences("every detail", STORED["every detail"], run)


def test_every_run_is_recorded_with_its_machine() -> None:
    assert STORED.keys() == RUNS.keys()
    for stored in STORED.values():
        assert stored["machine"] and stored["model"] and stored["summary"] and stored["steps"]


def test_on_the_same_machine_the_last_bit_counts(run: dict[str, Any]) -> None:
    assert moved(run) == []
    kl = run["steps"][2]["kl"]
    run["steps"][2]["kl"] = kl + 1e-15
    assert moved(run) == [f"every detail, step 1, kl is {kl + 1e-15}, was {kl}"]


def test_the_model_counts_and_the_summary(run: dict[str, Any]) -> None:
    run["model"] = "other"
    run["summary"]["kept_step"] = 3
    assert [line.split(" is ")[0] for line in moved(run)] == [
        "every detail, summary, kept_step",
        "every detail, model",
    ]


def test_what_is_new_is_permitted_and_what_is_missing_is_not(run: dict[str, Any]) -> None:
    run["steps"][0]["brand_new"] = 1.0
    run["summary"]["brand_new"] = 1.0
    assert moved(run) == []
    before = run["steps"][0].pop("reward")
    assert moved(run) == [f"every detail, step -1, reward: missing, was {before}"]


def test_another_number_of_steps_is_noticed(run: dict[str, Any]) -> None:
    run["steps"].append({"step": 9})
    assert len(moved(run)) == 1


@pytest.mark.parametrize(
    ("key", "change"),
    [("kl", 2e-4), ("first_ratio_deviation", 1e-4), ("penalty_coefficient", 1e-2)],
)
def test_elsewhere_rounding_is_forgiven_and_no_more(
    run: dict[str, Any], key: str, change: float
) -> None:
    run |= {"machine": "another", "model": "other"}
    row = next(row for row in run["steps"] if key in row)
    row[key] += 1e-5
    assert moved(run) == []
    row[key] += change
    assert len(moved(run)) == 1
