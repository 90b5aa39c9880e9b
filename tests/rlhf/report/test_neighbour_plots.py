"""What the neighbours of PPO-max log beyond it is on the page, and nothing of theirs on PPO-max's."""

import re
from pathlib import Path

import pytest

from rlhf.common.yaml import parse_yaml
from rlhf.report.neighbour_plots import _PLOTS, added_plots
from rlhf.report.ppo_plots import plot_groups
from rlhf.report.scored import use_of_reward_model
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import changed
from rlhf.settings.variants import VARIANTS

ROOT = Path(__file__).parents[3]
# the step log of PPO-max, as far as it matters here
PPO_MAX = {
    "step": 0,
    "reward": 1.0,
    "kl": 0.1,
    "policy_loss": 0.2,
    "token_reward_final_score": 1.0,
    "token_reward_kl_penalty": -0.1,
}


@pytest.mark.parametrize(
    ("logged", "names"),
    [
        ({}, []),
        ({"token_reward_dpo_reward": 0.5}, ["ppo-token-rewards"]),
        (
            {"reward_second": 0.5, "ties": 0.0, "pair_accuracy": None, "chosen_log_ratio": 0.1},
            ["ppo-second", "ppo-ties", "ppo-log-ratios", "ppo-ranked"],
        ),
        (
            {"soft_value": 0.1, "td_error": 0.2, "q_advantage_std": 0.3, "kl_exact": 0.4},
            ["ppo-soft-values", "ppo-td-error", "ppo-q-spread", "ppo-kl-exact"],
        ),
        ({"moving_reward": 0.1, "pair_loss": 0.2}, ["ppo-feedback", "ppo-moving-reward"]),
        ({"kl_loss": 0.1}, ["ppo-kl-loss"]),
    ],
    ids=["ppo-max", "rto", "pairs", "etpo", "aihf", "grpo"],
)
def test_a_page_has_the_curves_that_its_run_logged(
    logged: dict[str, float | None], names: list[str]
) -> None:
    rows = [PPO_MAX | logged]
    assert [plot.name for plot in added_plots(rows)] == names
    # a heading of their own, if there is any
    headings = [group.heading for group in plot_groups("Score", rows)]
    assert len(headings) == (4 if names else 3)


def test_each_source_of_the_token_rewards_has_its_curve() -> None:
    (plot,) = added_plots([PPO_MAX | {"token_reward_dpo_reward": 0.5}])
    labels = [curve.label for curve in plot.curves]
    assert labels == ["final score", "kl penalty", "dpo reward"]


def test_every_curve_is_of_a_metric_that_an_algorithm_logs() -> None:
    folder = ROOT / "rlhf/algorithms"
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    # columns of the demonstrations, by name
    made = {f"demonstration_{name}" for name in ("length", "finished", "cut")}
    keys = {curve.key.removeprefix("validation_") for plot in _PLOTS for curve in plot.curves}
    assert keys - made <= set(re.findall(r"\w+", code))
    assert len({plot.name for plot in _PLOTS}) == len(_PLOTS)


def test_where_a_judge_ranks_the_pairs_nothing_is_trained_against_the_reward() -> None:
    content = changed(parse_yaml(preset_text("laptop"), "laptop"), VARIANTS["xpo"])
    assert use_of_reward_model(settings_from(content)) == "PPO is trained against it."
    told = use_of_reward_model(settings_from(changed(content, {"ppo.xpo.judge": "rules"})))
    assert told.startswith(
        "The policy learns from pairs that rules ranks; the reward model chooses"
    )
