from pathlib import Path

import pytest

from rlhf.evaluation.judges import make_judge
from rlhf.evaluation.judges.gold import preference
from rlhf.evaluation.types import Case
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.mark.parametrize(
    ("first", "second", "tie_probability", "expected"),
    [
        (0.21, 0.0, 0.55, "first"),  # sigmoid(0.21) = 0.5523
        (0.20, 0.0, 0.55, "tie"),  # sigmoid(0.20) = 0.5498
        (0.0, 0.21, 0.55, "second"),
        (1.0, 1.0, 0.5, "tie"),  # equal scores, whatever the threshold
        (1e-6, 0.0, 0.5, "first"),
        (-5000.0, 5000.0, 0.99, "second"),  # no overflow
    ],
)
def test_gold_preference(
    first: float, second: float, tie_probability: float, expected: str
) -> None:
    assert preference(first, second, tie_probability) == expected


def test_gold_scores_do_not_depend_on_batching(trained: Path, settings: Settings) -> None:
    workspace = Workspace(trained)
    message = ({"role": "user", "content": "w1"},)
    cases = [
        Case(str(n), "helpful", message, "", "", tuple(range(3, 5 + n)), (7, 1), (8, 9, n + 10))
        for n in range(5)
    ]
    together = make_judge("gold", settings, workspace).judge(cases)
    alone = [make_judge("gold", settings, workspace).judge([case])[0] for case in cases]
    for verdict, other in zip(together, alone, strict=True):
        assert verdict.score_first == pytest.approx(other.score_first, abs=1e-5)
        assert verdict.score_second == pytest.approx(other.score_second, abs=1e-5)
