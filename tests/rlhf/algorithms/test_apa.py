"""APA against a slow reference, and on the task of counted tokens."""

import math
from collections.abc import Mapping
from typing import Any

import counted_tokens
import pytest
import torch
from given import step_loss, update_of, updates_of
from neighbours import APA, AWR
from slow_ppo import (
    SlowRow,
    flat,
    make,
    mean,
    move,
    normalised_scores,
    roll,
    slow_advantages,
    slow_rows,
)
from tiny import numbers, same_models, tiny_settings

from rlhf.algorithms.on_policy import OnPolicy
from rlhf.rollout.records import Rollout
from rlhf.training import loop
from rlhf.workspace import Workspace


@pytest.fixture
def algorithm(prepared: Workspace) -> OnPolicy:
    return make(prepared, APA)


@pytest.fixture
def rollout(algorithm: OnPolicy) -> Rollout:
    rollout = roll(algorithm)
    # padding is involved
    assert len({len(response) for response in rollout.responses}) > 1
    return rollout


def whitened_advantages(rows: list[SlowRow]) -> list[float]:
    """Of all response tokens."""
    scores = normalised_scores(rows)
    # no KL in the reward: eta is 0
    pairs = zip(rows, scores, strict=True)
    raw = torch.tensor(flat([slow_advantages(row, score, eta=0.0) for row, score in pairs]))
    advantages: list[float] = ((raw - raw.mean()) / raw.std()).tolist()
    return advantages


def slow_loss(before: list[SlowRow], now: list[SlowRow], lam: float) -> float:
    """The mean of (log pi - log pi_ref - A / lambda)^2 over all response tokens.

    before: of the policy that sampled, which the advantages are of; now: of the one that learns
    """
    advantages = whitened_advantages(before)
    log_ratios = flat([row.log_ratios for row in now])
    residuals = [log - a / lam for log, a in zip(log_ratios, advantages, strict=True)]
    return mean([residual**2 for residual in residuals])


@pytest.mark.parametrize("lam", [0.1, 1.0])
@pytest.mark.parametrize("moved", [False, True], ids=["first-step", "later-step"])
def test_the_loss_equals_the_slow_reference(prepared: Workspace, lam: float, moved: bool) -> None:
    algorithm = make(prepared, {**APA, "ppo.apa": {"lambda": lam}})
    rollout = roll(algorithm)
    before = slow_rows(prepared, algorithm, rollout)
    update = update_of(algorithm, "policy", rollout)
    if moved:
        move(algorithm.models.language_model("policy"), seed=6)
    now = slow_rows(prepared, algorithm, rollout)

    loss = step_loss(update)
    # micro-batches of four
    assert len(loss.parts) == 2
    expected = slow_loss(before, now, lam)
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-4)
    # no ratio, no clip: there is nothing else to log
    assert loss.metrics == {"policy_loss": pytest.approx(expected, rel=1e-4)}


@pytest.mark.parametrize("lam", [0.5, 1.0])
@pytest.mark.parametrize("moved", [False, True], ids=["first-step", "later-step"])
def test_awr_equals_the_slow_reference(prepared: Workspace, lam: float, moved: bool) -> None:
    """The mean of -exp(A / lambda) log pi; the reference plays no part."""
    algorithm = make(prepared, {**AWR, "ppo.apa": {"lambda": lam, "loss": "awr"}})
    rollout = roll(algorithm)
    advantages = whitened_advantages(slow_rows(prepared, algorithm, rollout))
    update = update_of(algorithm, "policy", rollout)
    if moved:
        move(algorithm.models.language_model("policy"), seed=6)
    logprobs = flat([row.logprobs for row in slow_rows(prepared, algorithm, rollout)])
    pairs = zip(advantages, logprobs, strict=True)
    expected = mean([-math.exp(a / lam) * logprob for a, logprob in pairs])
    loss = step_loss(update)
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert loss.metrics == {"policy_loss": pytest.approx(expected, rel=1e-4)}


def test_a_token_is_paid_by_the_score_alone(
    prepared: Workspace, algorithm: OnPolicy, rollout: Rollout
) -> None:
    rows = slow_rows(prepared, algorithm, rollout)
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    scores = normalised_scores(rows)
    for row, score, found in zip(rows, scores, experience.advantages, strict=True):
        expected = slow_advantages(row, score, eta=0.0)
        assert found[: len(expected)].tolist() == pytest.approx(expected, abs=1e-4)

    names = {key for key in update.metrics if key.startswith("token_reward_")}
    assert names == {"token_reward_final_score"}
    # the divergence is watched all the same
    log_ratios = flat([row.log_ratios for row in rows])
    assert update.metrics["kl"] == pytest.approx(mean(log_ratios), abs=1e-5)


def test_the_best_policy_is_chosen_by_the_paper_s_penalty(
    algorithm: OnPolicy, rollout: Rollout
) -> None:
    validation = algorithm.validate(rollout)
    expected = validation.scores / 0.5 - 0.05 * validation.metrics["kl_sequence"]
    torch.testing.assert_close(validation.objective, expected)


def test_advantages_may_enter_as_they_are(prepared: Workspace) -> None:
    algorithm = make(prepared, {**APA, "ppo.advantage": None})
    rollout = roll(algorithm)
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    advantages = experience.advantages[experience.response_mask].tolist()
    rows = slow_rows(prepared, algorithm, rollout)
    log_ratios = flat([row.log_ratios for row in rows])
    residuals = [log - a / 0.1 for log, a in zip(log_ratios, advantages, strict=True)]
    expected = mean([residual**2 for residual in residuals])
    assert float(step_loss(update).total.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_critic_learns_after_the_policy(algorithm: OnPolicy, rollout: Rollout) -> None:
    roles = [update.roles for update in updates_of(algorithm, rollout)]
    assert roles == [("policy",), ("critic",)]


# -- whole runs ---------------------------------------------------------------------------------


def test_a_whole_run_and_what_it_logs(workspace: Workspace) -> None:
    loop.train(tiny_settings({**APA, "ppo.ptx": None}), workspace)
    warmup, *iterations, final = numbers(workspace.steps("ppo"))
    assert "policy_loss" not in warmup and "value_loss" in warmup
    assert [row["step"] for row in iterations] == [0, 1, 2, 3]
    for row in iterations:
        assert {"policy_loss", "value_loss", "reward", "kl", "perplexity"} <= row.keys()
        assert not {"ratio_mean", "clip_fraction", "ptx_loss"} & row.keys()
    # the policy had not moved yet
    assert warmup["kl"] == iterations[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert "validation_objective" in final
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


def test_micro_batches_change_no_number_of_a_run(workspace: Workspace) -> None:
    runs = []
    for size in (1, 4):
        changes: Mapping[str, Any] = {
            **APA,
            "ppo.ptx": None,
            "ppo.micro_batch": size,
            "ppo.iterations": 2,
            "ppo.optimizer.epsilon": 1e-4,
        }
        loop.train(tiny_settings(changes), workspace)
        runs.append(numbers(workspace.steps("ppo")))
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "near"),
    [pytest.param(APA, 5.4, id="apa"), pytest.param(AWR, 5.0, id="awr", marks=pytest.mark.long)],
)
def test_it_solves_the_bandit_of_counted_tokens(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    changes: Mapping[str, Any],
    near: float,
) -> None:
    """lambda 0.1 with whitened advantages, as in the authors' code; 1 for the control."""
    first, last = counted_tokens.solve(workspace, monkeypatch, changes)
    assert first < 1.0
    assert last > near
