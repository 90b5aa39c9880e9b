"""RLOO, GRPO and REINFORCE++ against slow references, and on the task of counted tokens."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import counted_tokens
import pytest
import torch
from given import StepLoss, step_loss, update_of, updates_of
from members import CRITIC_FREE
from neighbours import GRPO, REINFORCE_PP, RLOO
from slow_ppo import SlowRow, flat, make, mean, move, normalised_scores, roll, slow_rows
from tiny import numbers, same_models, tiny_settings

from rlhf.algorithms.base import Update
from rlhf.algorithms.on_policy import OnPolicy
from rlhf.rollout.records import Rollout
from rlhf.training import loop
from rlhf.workspace import Workspace

ETA, EPSILON = 0.3, 0.05
# a clip that the moved policy runs into
CLIP: Mapping[str, Any] = {"ppo.surrogate_clip": EPSILON}
PENALTY: Mapping[str, Any] = {"ppo.kl": {"coefficient": ETA, "estimator": "k1"}}

each_critic_free = pytest.mark.parametrize("member", CRITIC_FREE.values(), ids=CRITIC_FREE)
both_groups = pytest.mark.parametrize("responses", [2, 4])
both_steps = pytest.mark.parametrize("moved", [False, True], ids=["first-step", "later-step"])


class Learnt:
    """The policy's update from one rollout: what the slow reference says before it and during it."""

    def __init__(self, workspace: Workspace, changes: Mapping[str, Any], moved: bool) -> None:
        self.algorithm = make(workspace, changes)
        # a seed with short and long responses, whatever the groups: padding is involved
        self.rollout = roll(self.algorithm, seed=9)
        assert len({len(response) for response in self.rollout.responses}) > 1
        self.before = slow_rows(workspace, self.algorithm, self.rollout)
        self.update: Update[Any] = update_of(self.algorithm, "policy", self.rollout)
        if moved:
            move(self.algorithm.models.language_model("policy"), seed=6)
        self.now = slow_rows(workspace, self.algorithm, self.rollout)

    def loss(self) -> StepLoss:
        loss = step_loss(self.update)
        # micro-batches of four
        assert len(loss.parts) == 2
        return loss


def clipped(ratio: float, advantage: float) -> float:
    """Equation 15."""
    bounded = min(max(ratio, 1 - EPSILON), 1 + EPSILON)
    return -min(ratio * advantage, bounded * advantage)


def in_groups(values: Sequence[float], responses: int) -> list[list[float]]:
    starts = range(0, len(values), responses)
    return [list(values[start : start + responses]) for start in starts]


def token_ratios(before: SlowRow, now: SlowRow) -> list[float]:
    pairs = zip(now.logprobs, before.logprobs, strict=True)
    return [math.exp(new - old) for new, old in pairs]


# -- RLOO ---------------------------------------------------------------------------------------


def slow_rloo_advantages(rows: Sequence[SlowRow], responses: int) -> list[float]:
    """R is the normalised score less eta times the summed log ratio."""
    scores = normalised_scores(rows)
    pairs = zip(scores, rows, strict=True)
    earned = [score - ETA * sum(row.log_ratios) for score, row in pairs]
    advantages = []
    for group in in_groups(earned, responses):
        for place, reward in enumerate(group):
            others = group[:place] + group[place + 1 :]
            advantages.append(reward - mean(others))
    return advantages


@both_groups
@both_steps
def test_rloo_equals_the_slow_reference(prepared: Workspace, responses: int, moved: bool) -> None:
    changes = {**RLOO, **CLIP, **PENALTY, "ppo.responses": responses}
    learnt = Learnt(prepared, changes, moved)
    advantages = slow_rloo_advantages(learnt.before, responses)
    (batch,) = learnt.update.mini_batches
    for row, advantage, found in zip(learnt.before, advantages, batch.advantages, strict=True):
        count = len(row.logprobs)
        assert found[:count].tolist() == pytest.approx([advantage] * count, abs=1e-4)

    terms, ratios = [], []
    for before, now, advantage in zip(learnt.before, learnt.now, advantages, strict=True):
        ratio = math.exp(sum(now.logprobs) - sum(before.logprobs))
        ratios.append(ratio)
        terms.append(clipped(ratio, advantage))
    loss = learnt.loss()
    # over responses, not over tokens
    assert float(loss.total.detach()) == pytest.approx(mean(terms), rel=1e-4, abs=1e-5)
    assert loss.metrics["policy_loss"] == pytest.approx(mean(terms), rel=1e-4, abs=1e-5)
    assert loss.metrics["ratio_mean"] == pytest.approx(mean(ratios), rel=1e-4)
    outside = [float(abs(ratio - 1) > EPSILON) for ratio in ratios]
    assert loss.metrics["clip_fraction"] == pytest.approx(mean(outside))
    assert (mean(outside) > 0) is moved


def test_rloo_without_a_penalty_is_paid_by_the_score_alone(prepared: Workspace) -> None:
    algorithm = make(prepared, {**RLOO, "ppo.kl": None})
    rollout = roll(algorithm)
    scores = normalised_scores(slow_rows(prepared, algorithm, rollout))
    update = update_of(algorithm, "policy", rollout)
    expected = [x for a, b in in_groups(scores, 2) for x in (a - b, b - a)]
    (batch,) = update.mini_batches
    assert batch.advantages[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    names = {key for key in update.metrics if key.startswith("token_reward_")}
    assert names == {"token_reward_final_score"}


# -- GRPO ---------------------------------------------------------------------------------------


def slow_grpo_advantages(rows: Sequence[SlowRow], responses: int, scale: str | None) -> list[float]:
    """(r - mean) / (std + 1e-4) of scores as they are."""
    scores = [row.score for row in rows]
    advantages = []
    for group in in_groups(scores, responses):
        of = {"group": group, "batch": scores}.get(str(scale))
        divisor = 1.0 if of is None else float(torch.tensor(of).double().std()) + 1e-4
        advantages += [(score - mean(group)) / divisor for score in group]
    return advantages


@both_groups
@pytest.mark.parametrize("scale", ["group", "batch", None])
def test_grpo_compares_within_groups(
    prepared: Workspace, responses: int, scale: str | None
) -> None:
    section = {"kl_coefficient": 0.04, "scale": scale, "loss": "token"}
    learnt = Learnt(prepared, {**GRPO, "ppo.grpo": section, "ppo.responses": responses}, False)
    advantages = slow_grpo_advantages(learnt.before, responses, scale)
    (batch,) = learnt.update.mini_batches
    for row, advantage, found in zip(learnt.before, advantages, batch.advantages, strict=True):
        count = len(row.logprobs)
        # reward models of random weights: scores of a group lie close together
        assert found[:count].tolist() == pytest.approx([advantage] * count, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("loss", ["token", "sequence"])
@both_steps
def test_grpo_equals_the_slow_reference(prepared: Workspace, loss: str, moved: bool) -> None:
    beta = 0.5
    section = {"kl_coefficient": beta, "scale": None, "loss": loss}
    learnt = Learnt(prepared, {**GRPO, **CLIP, "ppo.grpo": section}, moved)
    advantages = slow_grpo_advantages(learnt.before, 2, None)

    surrogates, divergences = [], []
    for before, now, advantage in zip(learnt.before, learnt.now, advantages, strict=True):
        surrogates.append([clipped(ratio, advantage) for ratio in token_ratios(before, now)])
        # of the policy that learns, not of the one that sampled
        divergences.append([math.exp(-log) - 1 + log for log in now.log_ratios])

    def averaged(rows: list[list[float]]) -> float:
        return mean(flat(rows)) if loss == "token" else mean([mean(row) for row in rows])

    expected, kl = averaged(surrogates), averaged(divergences)
    # the responses differ in length, and so the two means
    assert abs(mean(flat(divergences)) - mean([mean(row) for row in divergences])) > 1e-4
    found = learnt.loss()
    assert found.metrics["policy_loss"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found.metrics["kl_loss"] == pytest.approx(kl, rel=1e-4, abs=1e-6)
    total = float(found.total.detach())
    assert total == pytest.approx(expected + beta * kl, rel=1e-4, abs=1e-5)
    assert (found.metrics["clip_fraction"] > 0) is moved


def test_the_penalty_of_grpo_is_in_the_loss_alone(prepared: Workspace) -> None:
    algorithm = make(prepared, GRPO)
    rollout = roll(algorithm)
    rows = slow_rows(prepared, algorithm, rollout)
    update = update_of(algorithm, "policy", rollout)
    names = {key for key in update.metrics if key.startswith("token_reward_")}
    assert names == {"token_reward_final_score"}
    assert update.metrics["token_reward_final_score"] == pytest.approx(
        mean([row.score for row in rows]), abs=1e-5
    )
    # the divergence is watched all the same
    log_ratios = flat([row.log_ratios for row in rows])
    assert update.metrics["kl"] == pytest.approx(mean(log_ratios), abs=1e-5)


# -- REINFORCE++ --------------------------------------------------------------------------------


def slow_reinforce_advantages(rows: Sequence[SlowRow], baselines: Sequence[float]) -> list[float]:
    """The reward to go of each token, whitened over all tokens."""
    scores = normalised_scores(rows)
    to_go = []
    for row, score, baseline in zip(rows, scores, baselines, strict=True):
        count = len(row.logprobs)
        later = [sum(row.log_ratios[token:]) for token in range(count)]
        to_go += [score - baseline - ETA * penalty for penalty in later]
    raw = torch.tensor(to_go, dtype=torch.float64)
    return ((raw - raw.mean()) / raw.std()).tolist()


@pytest.mark.parametrize(
    ("responses", "baseline"), [(1, None), (4, None), (2, "group"), (4, "group")]
)
@both_steps
def test_reinforce_pp_equals_the_slow_reference(
    prepared: Workspace, responses: int, baseline: str | None, moved: bool
) -> None:
    changes = {
        **REINFORCE_PP,
        **CLIP,
        **PENALTY,
        "ppo.reinforce_pp": {"baseline": baseline},
        "ppo.responses": responses,
    }
    learnt = Learnt(prepared, changes, moved)
    scores = normalised_scores(learnt.before)
    baselines = [0.0] * len(scores)
    if baseline == "group":
        groups = in_groups(scores, responses)
        baselines = [mean(group) for group in groups for _ in group]
    advantages = slow_reinforce_advantages(learnt.before, baselines)
    (batch,) = learnt.update.mini_batches
    found = batch.advantages[batch.response_mask].tolist()
    assert found == pytest.approx(advantages, abs=1e-3)

    pairs = zip(learnt.before, learnt.now, strict=True)
    ratios = flat([token_ratios(before, now) for before, now in pairs])
    terms = [clipped(ratio, a) for ratio, a in zip(ratios, advantages, strict=True)]
    loss = learnt.loss()
    assert float(loss.total.detach()) == pytest.approx(mean(terms), rel=1e-3, abs=1e-4)
    assert loss.metrics["policy_loss"] == pytest.approx(mean(terms), rel=1e-3, abs=1e-4)
    assert (loss.metrics["clip_fraction"] > 0) is moved
    shown = learnt.update.metrics.get("token_reward_group_baseline")
    assert shown == (None if baseline is None else pytest.approx(0.0, abs=1e-5))


def test_reinforce_pp_whitens_over_the_rollout_and_not_over_mini_batches(
    prepared: Workspace,
) -> None:
    found = []
    for size in (2, 8):
        algorithm = make(prepared, {**REINFORCE_PP, "ppo.mini_batch": size, "ppo.micro_batch": 2})
        batches = update_of(algorithm, "policy", roll(algorithm)).mini_batches
        assert len(batches) == 8 // size
        found.append(torch.cat([batch.advantages[batch.response_mask] for batch in batches]))
    torch.testing.assert_close(found[0], found[1])
    assert float(found[0].mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(found[0].std()) == pytest.approx(1.0, abs=1e-5)


# -- what all of them keep to -------------------------------------------------------------------


def test_mini_batches_of_whole_responses_weigh_each_response_alike(prepared: Workspace) -> None:
    """Of several mini-batches each is a mean over its own responses."""
    algorithm = make(prepared, {**RLOO, **PENALTY, "ppo.mini_batch": 4, "ppo.micro_batch": 2})
    rollout = roll(algorithm)
    rows = slow_rows(prepared, algorithm, rollout)
    advantages = slow_rloo_advantages(rows, 2)
    update = update_of(algorithm, "policy", rollout)
    for number, batch in enumerate(update.mini_batches):
        # nothing was learnt yet: the ratio is 1
        expected = -mean(advantages[4 * number : 4 * number + 4])
        loss = step_loss(update, batch)
        assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-5)


@each_critic_free
def test_the_first_ratio_is_one(prepared: Workspace, member: Mapping[str, Any]) -> None:
    algorithm = make(prepared, member)
    loss = step_loss(update_of(algorithm, "policy", roll(algorithm)))
    assert loss.metrics["first_ratio_deviation"] == loss.metrics["ratio_max_deviation"] == 0.0
    assert loss.metrics["ratio_mean"] == 1.0
    later = step_loss(update_of(algorithm, "policy", roll(algorithm)), number=1)
    assert "first_ratio_deviation" not in later.metrics


@each_critic_free
def test_no_clip_leaves_the_ratio_as_it_is(prepared: Workspace, member: Mapping[str, Any]) -> None:
    found = {}
    # a clip that no ratio reaches, and one that some do
    for clip in (None, 1e6, EPSILON):
        algorithm = make(prepared, {**member, "ppo.surrogate_clip": clip})
        update = update_of(algorithm, "policy", roll(algorithm))
        move(algorithm.models.language_model("policy"), seed=6)
        found[clip] = step_loss(update)
    assert "clip_fraction" not in found[None].metrics
    fractions = [found[clip].metrics["clip_fraction"] for clip in (1e6, EPSILON)]
    assert fractions[0] == 0.0 < fractions[1]
    policy_losses = [loss.metrics["policy_loss"] for loss in found.values()]
    assert policy_losses[0] == policy_losses[1] < policy_losses[2]


@each_critic_free
def test_only_the_policy_learns(prepared: Workspace, member: Mapping[str, Any]) -> None:
    algorithm = make(prepared, member)
    assert [update.roles for update in updates_of(algorithm, roll(algorithm))] == [("policy",)]
    assert set(algorithm.models.trainers) == {"policy"}
    assert algorithm.warmup_iterations == 0


@pytest.mark.parametrize("member", [RLOO, GRPO], ids=["rloo", "grpo"])
def test_groups_of_equal_scores_teach_nothing(
    prepared: Workspace, member: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make(prepared, {**member, "ppo.kl": None, "ppo.responses": 4})
    rollout = roll(algorithm)
    equal_in_groups = torch.tensor([0.1] * 4 + [-1 / 3] * 4)
    monkeypatch.setattr(algorithm.rewards, "total", lambda _read: equal_in_groups)
    update = update_of(algorithm, "policy", rollout)
    (batch,) = update.mini_batches
    assert torch.equal(batch.advantages, torch.zeros_like(batch.advantages))
    assert math.isfinite(float(step_loss(update).total))


def rollouts_of_a_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """Train, and give what was drawn."""
    drawn: list[Rollout] = []
    score = OnPolicy.score

    def watched(self: OnPolicy, rollout: Rollout) -> Any:
        drawn.append(rollout)
        return score(self, rollout)

    monkeypatch.setattr(OnPolicy, "score", watched)
    loop.train(tiny_settings({**GRPO, "ppo.responses": 4, "ppo.iterations": 1}), workspace)
    return drawn


def test_a_run_draws_groups_of_different_responses(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (training, *_) = [one for one in rollouts_of_a_run(workspace, monkeypatch) if len(one) == 8]
    prompts, responses = training.prompts, training.responses
    for start in (0, 4):
        assert len({tuple(ids) for ids in prompts.ids[start : start + 4]}) == 1
        assert len({tuple(ids) for ids in responses[start : start + 4]}) > 1
        assert prompts.response_numbers[start : start + 4] == [0, 1, 2, 3]


@each_critic_free
def test_a_whole_run_and_what_it_logs(workspace: Workspace, member: Mapping[str, Any]) -> None:
    loop.train(tiny_settings({**member, "ppo.epochs": 2}), workspace)
    *iterations, final = numbers(workspace.steps("ppo"))
    # no critic, and so nothing before the policy learns
    assert [row["step"] for row in iterations] == [0, 1, 2, 3]
    for row in iterations:
        assert {"policy_loss", "ratio_mean", "clip_fraction", "reward", "kl"} <= row.keys()
        assert not {"value_loss", "explained_variance", "critic_gradient_norm"} & row.keys()
    assert "validation_objective" in final
    (summary,) = numbers(workspace.metrics("ppo"))
    assert summary["first_ratio_deviation_max"] < 1e-5
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


@pytest.mark.long
@each_critic_free
def test_it_solves_the_bandit_of_counted_tokens(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, member: Mapping[str, Any]
) -> None:
    first, last = counted_tokens.solve(workspace, monkeypatch, member)
    assert first < 1.0
    assert last > 5.0
