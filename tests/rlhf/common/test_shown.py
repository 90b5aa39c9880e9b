import pytest

from rlhf.common.shown import at_iteration


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (12, "at iteration 12"),
        (0, "at iteration 0"),
        (-1, "in the critic's warm-up, 1 iteration before the policy learns"),
        (-3, "in the critic's warm-up, 3 iterations before the policy learns"),
    ],
)
def test_iterations_before_the_policy_learns_have_no_negative_numbers(
    number: int, words: str
) -> None:
    assert at_iteration(number) == words
