"""Names of metrics in MLflow: what matters comes first, and every key of the tables exists."""

import json

import pytest

from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.metric_names import compared_figures, curve_name, key_figures, named_curves, under
from tests.project_copy import Project

WITH_STEPS = [name for name, stage in STAGES.items() if stage.step_log and stage.optional is None]


def test_important_curves_come_before_the_others() -> None:
    row = {"step": 4, "reward": 0.5, "clip_fraction": 0.1}
    assert named_curves("ppo", row) == {"step": 4, "ppo/reward": 0.5, "ppo/more/clip_fraction": 0.1}
    assert curve_name("gold", "pair_loss") == "gold/pair_loss"


def test_figures_are_the_key_metrics_of_the_stage() -> None:
    summary = {"accuracy": 0.9, "pairs_trained": 356}
    assert key_figures("reward", summary) == {"accuracy": 0.9}
    assert key_figures("findings", summary) == summary
    assert under("summary", {"accuracy": 0.9}) == {"summary/accuracy": 0.9}


@pytest.mark.parametrize("stage", WITH_STEPS)
def test_every_key_curve_is_in_the_step_log(chain: Project, stage: str) -> None:
    lines = Workspace(chain.root).steps(stage).read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    assert STAGES[stage].key_curves
    assert set(STAGES[stage].key_curves) <= written


def test_dvc_has_few_figures_each_named_by_its_stage() -> None:
    summary = {"accuracy": 0.9, "accuracy_helpful": 0.8, "seconds": 3.0}
    assert compared_figures("reward", summary) == {"reward/accuracy": 0.9}
    assert compared_figures("gold", summary) == {"gold/accuracy": 0.9}
    assert compared_figures("prepare", summary) == {}
