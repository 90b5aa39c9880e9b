import json
from dataclasses import replace

import pytest

from rlhf.algorithms.base import Signals
from rlhf.training.monitor import Watch, outside, start_of

SOUND = Signals(perplexity=4.0, response_length=40.0, finished=0.9, kl=0.05)
TWO = {"perplexity": 1.9, "kl": 0.6}


def watched(changes: list[dict[str, float]], patience: int = 3) -> Watch:
    """One warm-up iteration, the first one, then those given, each with some signals changed."""
    watch = Watch(patience)
    for step, change in enumerate([{}, {}, *changes], start=-1):
        watch.see(step, replace(SOUND, **change))
    return watch


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({}, ()),
        # ln 1.9 / ln 4 = 0.46, ln 2.1 / ln 4 = 0.54
        ({"perplexity": 1.9}, ("perplexity",)),
        ({"perplexity": 2.1}, ()),
        ({"perplexity": 1.0}, ("perplexity",)),
        # the harmless direction
        ({"perplexity": 90.0}, ()),
        ({"response_length": 61.0}, ("response_length",)),
        ({"response_length": 59.0}, ()),
        # 40 / 1.5 = 26.7
        ({"response_length": 26.0}, ("response_length",)),
        ({"response_length": 27.0}, ()),
        # they run into the limit
        ({"finished": 0.4}, ("response_length",)),
        ({"finished": 1.0}, ()),
        ({"kl": 0.56}, ("kl",)),
        ({"kl": 0.54}, ()),
        ({"kl": -3.0}, ()),
        (
            {"perplexity": 1.2, "response_length": 99.0, "kl": 2.0},
            ("perplexity", "response_length", "kl"),
        ),
    ],
)
def test_bands_around_the_start(row: dict[str, float], names: tuple[str, ...]) -> None:
    assert outside(replace(SOUND, **row), SOUND).names == list(names)


def test_the_start_is_the_mean_before_anything_was_learnt() -> None:
    kl_by_step = {-1: 0.0, 0: 0.2, 1: 9.0}
    seen = {step: replace(SOUND, kl=kl) for step, kl in kl_by_step.items()}
    assert start_of(seen).kl == pytest.approx(0.1)
    assert start_of(seen).perplexity == 4.0
    # a log that begins later
    assert start_of({1: seen[1]}).kl == 9.0


SHORT_OF_IT: dict[str, float] = {"perplexity": 1.1}
ANY_TWO = [TWO, {"response_length": 80.0, "kl": 0.6}, {"finished": 0.1, "perplexity": 1.1}]


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ([{}] * 9, None),
        # one signal alone is none
        ([{"kl": 1.04}] * 9, None),
        ([SHORT_OF_IT] * 9, None),
        # but a KL beyond twice its band of 0.5 above 0.05 is
        ([{"kl": 1.06}] * 9, 3),
        ([TWO] * 2, None),
        ([TWO] * 3, 3),
        # the first time counts
        ([TWO] * 9, 3),
        # not sustained
        ([TWO, TWO, {}, TWO, TWO], None),
        ([{}, *ANY_TWO, {}], 4),
    ],
)
def test_the_alarm_wants_two_signals_for_some_iterations_in_a_row(
    changes: list[dict[str, float]], step: int | None
) -> None:
    assert watched(changes).collapse == step


def test_patience() -> None:
    assert watched([TWO], patience=1).collapse == 1
    assert watched([TWO] * 4, patience=5).collapse is None


def test_soundness_is_that_of_the_last_iteration() -> None:
    assert watched([TWO]).sound is False
    assert watched([TWO, {}]).sound is True
    # a collapse that has passed stays one
    assert watched([TWO] * 5 + [{}]).collapse == 3


def test_what_is_wrong_is_described_with_where_it_started() -> None:
    description = watched([TWO]).describe()
    assert description == "perplexity 1.9 (at the start 4), kl 0.6 (at the start 0.05)"


def test_an_algorithm_without_the_signals_is_not_judged() -> None:
    watch = Watch(3)
    watch.see(0, None)
    assert watch.collapse is None and watch.sound and watch.seen == {}


def test_an_iteration_counts_once() -> None:
    """Of several updates the first: its responses are of the policy before any of them."""
    watch = watched([TWO, {}])
    for _ in range(3):
        watch.see(2, replace(SOUND, **TWO))
    assert watch.sound and watch.collapse is None
    watch.see(3, replace(SOUND, **TWO))
    watch.see(3, SOUND)
    assert not watch.sound


def test_it_goes_on_from_its_state() -> None:
    first, second = watched([TWO, TWO]), Watch(3)
    second.load_state(json.loads(json.dumps(first.state())))
    assert second == first and second.collapse is None
    second.see(3, replace(SOUND, **TWO))
    assert second.collapse == 3
