from dataclasses import replace
from typing import Any

import pytest

from rlhf.algorithms.base import Signals
from rlhf.training.monitor import Watch
from rlhf.training.summary import summarise, verdict

VALIDATED = {"validation_reward": 0.0, "validation_win_rate": 0.5}
SOUND = Signals(perplexity=4.0, response_length=40.0, finished=0.9, kl=0.05)


def iteration(step: int, **metrics: Any) -> dict[str, Any]:
    return {"step": step, "update_seconds": 2.0, "rollout_seconds": 1.0, **metrics}


def test_curves_are_summed_up_by_their_ends() -> None:
    """Of twenty iterations the first two and the last two."""
    rows = [
        iteration(step, reward=float(step), validation_reward=0.1, validation_win_rate=0.5)
        for step in range(20)
    ]
    # the last validation has a row of its own
    rows.append({"step": 20, "validation_reward": 0.9, "validation_win_rate": 0.7})
    summary = summarise(rows, ("reward", "value_loss"), (), seconds=5.0)
    assert (summary["reward_first"], summary["reward_last"]) == (0.5, 18.5)
    assert summary["validation_reward_first"] == 0.1
    assert summary["validation_reward_last"] == 0.9
    assert summary["validation_win_rate_last"] == 0.7
    assert (summary["iterations"], summary["seconds"]) == (20, 5.0)
    # a curve that nobody measured has no ends
    assert "value_loss_first" not in summary


def test_a_curve_is_summed_up_over_the_iterations_that_measured_it() -> None:
    rows = [iteration(0, loss=1.0, **VALIDATED), iteration(1), iteration(2, loss=3.0)]
    summary = summarise(rows, ("loss",), (), seconds=1.0)
    assert (summary["loss_first"], summary["loss_last"]) == (1.0, 3.0)


def test_peaks_are_summed_up_by_the_largest() -> None:
    rows = [
        iteration(0, deviation=0.2, other=7.0, **VALIDATED),
        iteration(1, deviation=0.3),
        iteration(2, deviation=0.1),
    ]
    summary = summarise(rows, (), ("deviation", "unmeasured"), seconds=1.0)
    assert summary["deviation_max"] == 0.3
    assert not {"other_max", "unmeasured_max"} & summary.keys()


def test_speeds_are_those_of_all_tokens() -> None:
    rows = [
        iteration(0, tokens=30.0, **VALIDATED),
        iteration(1, tokens=50.0),
    ]
    summary = summarise(rows, (), (), seconds=1.0)
    assert summary["rollout_tokens_per_second"] == pytest.approx(40.0)
    assert summary["update_tokens_per_second"] == pytest.approx(20.0)
    silent = [iteration(0, **VALIDATED)]
    assert "rollout_tokens_per_second" not in summarise(silent, (), (), seconds=1.0)


def test_the_verdict_of_a_sound_run() -> None:
    watch = Watch(3)
    watch.see(0, SOUND)
    rows = [{"step": 4, "validation_objective": 0.7}]
    assert verdict(watch, {"step": 2, "objective": 0.9}, rows) == {
        "collapsed": False,
        "collapse_step": None,
        "kept_step": 2,
        "kept_objective": 0.9,
    }


def test_the_verdict_where_the_last_policy_is_stored() -> None:
    watch = Watch(1)
    watch.see(0, SOUND)
    watch.see(1, replace(SOUND, kl=9.0))
    rows = [{"step": 2, "validation_objective": 0.7}]
    found = verdict(watch, None, rows)
    assert (found["collapsed"], found["collapse_step"]) == (True, 1)
    assert (found["kept_step"], found["kept_objective"]) == (2, 0.7)


def test_a_run_without_the_alarm_s_signals_has_no_verdict() -> None:
    found = verdict(Watch(3), None, [{"step": 2}])
    assert found["collapsed"] is None and found["kept_objective"] is None
