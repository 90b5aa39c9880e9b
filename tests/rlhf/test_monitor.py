import pytest

from rlhf.monitor import collapsed

SOUND = {"perplexity": 4.0, "response_length": 40.0, "finished": 0.9, "kl": 0.05}


def run(last: dict[str, float], count: int = 20) -> bool:
    """A run whose last tenth differs from the rest."""
    rows = [SOUND] * (count - count // 10) + [SOUND | last] * (count // 10)
    return collapsed(rows)


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ({}, False),
        ({"perplexity": 1.9}, False),  # ln 1.9 / ln 4 = 0.46: one signal alone is none
        ({"perplexity": 1.9, "kl": 0.6}, True),
        ({"perplexity": 1.0, "kl": 0.6}, True),  # a perplexity of exactly 1
        ({"perplexity": 2.1, "kl": 0.6}, False),  # ln 2.1 / ln 4 = 0.54
        ({"response_length": 61.0, "kl": 0.6}, True),
        ({"response_length": 59.0, "kl": 0.6}, False),
        ({"response_length": 59.0, "finished": 0.4, "kl": 0.6}, True),  # they run into the limit
        ({"response_length": 61.0, "perplexity": 1.9, "kl": 0.4}, True),
        ({"kl": 5.0}, False),
        ({"perplexity": 9.0, "response_length": 10.0, "kl": -0.1}, False),  # the harmless directions
    ],
)
def test_two_of_three_signals_make_a_collapse(last: dict[str, float], verdict: bool) -> None:
    assert run(last) is verdict


def test_a_run_of_one_iteration_can_be_judged() -> None:
    assert collapsed([SOUND]) is False
