"""Whole runs of ETPO: what they log, and the task of counted tokens with and without the right loss."""

from collections.abc import Mapping
from typing import Any

import counted_tokens
import pytest
from neighbours import ETPO
from tiny import numbers, same_models, tiny_settings

from rlhf.training import loop
from rlhf.workspace import Workspace


def test_a_whole_run_and_what_it_logs(workspace: Workspace) -> None:
    loop.train(tiny_settings(ETPO), workspace)
    warmup, *iterations, final = numbers(workspace.steps("ppo"))
    assert "policy_loss" not in warmup and "q_loss" in warmup
    assert [row["step"] for row in iterations] == [0, 1, 2, 3]
    of_etpo = {"policy_loss", "kl_exact", "q_loss", "q_mean", "q_target", "soft_value", "td_error"}
    for row in iterations:
        assert of_etpo | {"q_advantage_std", "reward", "kl", "perplexity"} <= row.keys()
        assert row["policy_gradient_norm"] > 0 and row["critic_gradient_norm"] > 0
        assert not {"ratio_mean", "value_loss", "ptx_loss", "explained_variance"} & row.keys()
    # nothing had moved yet: Q and the divergence are 0
    assert warmup["soft_value"] == pytest.approx(0.0, abs=1e-6)
    assert warmup["kl"] == iterations[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    # and then the target network followed the critic
    assert abs(iterations[0]["soft_value"]) > 1e-5
    assert "validation_objective" in final

    (summary,) = numbers(workspace.metrics("ppo"))
    largest = max(row["largest_td_error"] for row in iterations)
    assert summary["largest_td_error_max"] == largest
    assert summary["q_loss_first"] == iterations[0]["q_loss"]
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


def test_micro_batches_change_no_number_of_a_run(workspace: Workspace) -> None:
    runs = []
    for size in (1, 4):
        changes: Mapping[str, Any] = {
            **ETPO,
            "ppo.micro_batch": size,
            "ppo.iterations": 2,
            "ppo.optimizer.epsilon": 1e-4,
            "ppo.critic.optimizer.epsilon": 1e-4,
        }
        loop.train(tiny_settings(changes), workspace)
        runs.append(numbers(workspace.steps("ppo")))
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


# -- counted tokens -----------------------------------------------------------------------------
#
# What was tried, on seeds 1 and 2, rates of policy and critic 3e-3 and 1e-3 unless said otherwise:
#   scores as they are, beta 0.1 or 0.03, polyak 0.5, 40 iterations: 5.99 and more
#   with 24 iterations polyak 0.5 is enough, 0.9 not always; a critic's rate of 3e-3 is twice as fast
#   beta 0.3: below 0.6, since the gain of a first token is no more than the cost of finding it
#   normalised scores, beta 0.01 or 0.03: 6.00, with the code's polyak of 0.995 too
#   normalised scores, beta 0.05 or more, or a critic's rate of 3e-3, or four epochs: some runs climb
#     to 6 and fall again. The history's mean goes up with the policy, so that what the critic has
#     learnt is too much, and the Q of tokens that are no longer tried stays as it was
# The published form ended at 0.00 in every run.

PLAIN: Mapping[str, Any] = {
    **ETPO,
    "ppo.reward": {"normalise": None, "scale": None, "clip": None},
    "ppo.critic.optimizer.learning_rate": 3e-3,
    "ppo.iterations": 24,
}


def form(name: str) -> dict[str, Any]:
    return {"ppo.etpo": {"beta": 0.1, "polyak": 0.5, "huber": 10.0, "form": name}}


@pytest.mark.long
def test_it_solves_the_bandit_of_counted_tokens(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = counted_tokens.solve(workspace, monkeypatch, {**PLAIN, **form("exact")})
    assert first < 1.0
    assert last > 5.4


@pytest.mark.long
def test_the_published_form_does_not_improve_on_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = counted_tokens.solve(workspace, monkeypatch, {**PLAIN, **form("published")})
    assert last <= first < 1.0
