"""Which policy counts as the best, and how long its weights are kept."""

from typing import Any

import pytest
import torch
from tiny import numbers, same_models, tiny_settings
from torch import Tensor

from rlhf.algorithms import ALGORITHMS, PpoMax
from rlhf.common.files import read_json
from rlhf.core.tally import Tally
from rlhf.rollout.records import Rollout
from rlhf.training import loop
from rlhf.training.validation import Looks
from rlhf.workspace import Workspace


class Rising(PpoMax):
    """PPO-max whose objective rises from look to look, and whose KL leaps at the last."""

    looks = 0
    leap: int | None = None

    def look(self, rollout: Rollout) -> tuple[Tensor, Tally]:
        rewards, tally = super().look(rollout)
        count = len(rewards)
        tally.sums["objective"] = torch.tensor(float(Rising.looks * count), dtype=torch.float64)
        if Rising.looks == Rising.leap:
            tally.sums["kl"] = torch.tensor(1.5 * tally.weights["kl"], dtype=torch.float64)
        Rising.looks += 1
        return rewards, tally


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> type[Rising]:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", Rising)
    monkeypatch.setattr(Rising, "looks", 0)
    return Rising


def test_what_a_checkpoint_names_is_there_until_another_names_better(
    workspace: Workspace, rising: type[Rising], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[str]] = []
    real = Looks.look

    def look(self: Looks, *arguments: Any) -> Any:
        found = real(self, *arguments)
        kept.append(sorted(path.name for path in workspace.checkpoints.glob("ppo/*/best-*")))
        return found

    monkeypatch.setattr(Looks, "look", look)
    changes = {"ppo.iterations": 5, "ppo.samples_every": 1, "ppo.checkpoint_every": 3}
    loop.train(tiny_settings(changes), workspace)
    # a checkpoint after iteration 2 names the look of 2: from then on it is not let go of
    expected = [[0], [1], [2], [2, 3], [2, 4], [2, 5]]
    assert kept == [[f"best-{step:08d}" for step in steps] for steps in expected]
    assert read_json(workspace.metrics("ppo"))["kept_step"] == 5


def test_a_last_policy_that_has_collapsed_is_not_the_best(
    workspace: Workspace, rising: type[Rising], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its iteration's own signals are of the responses before the last update, and sound."""
    monkeypatch.setattr(rising, "leap", 2)
    loop.train(tiny_settings({"ppo.samples_every": 2}), workspace)
    rows = {
        row["step"]: row for row in numbers(workspace.steps("ppo")) if "validation_objective" in row
    }
    assert sorted(rows) == [0, 2, 4] and rows[4]["validation_kl"] == pytest.approx(1.5)
    assert rows[4]["validation_objective"] > rows[2]["validation_objective"]
    summary = read_json(workspace.metrics("ppo"))
    assert (summary["kept_step"], summary["collapsed"]) == (2, False)
    (best,) = workspace.checkpoints.glob("ppo/*/best-00000002")
    assert same_models(best, workspace.model("policy"))
