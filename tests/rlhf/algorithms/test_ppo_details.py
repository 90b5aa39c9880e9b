"""Details of the paper that PPO-max may leave off, each against the slow reference."""

import math

import pytest
import torch
from given import step_loss, update_of, updates_of
from slow_ppo import flat, make, mean, move, roll, slow_rows

from rlhf.workspace import Workspace

NO_CLIP = {"ppo.surrogate_clip": None}
NO_REPARAMETERISATION = {"normalise": None, "scale": None, "clip": None}


# -- advantages ---------------------------------------------------------------------------------


def test_advantages_are_whitened_over_the_mini_batch_and_then_clipped(prepared: Workspace) -> None:
    clipped = {"ppo.advantage": {"normalise": "mini-batch", "clip": 0.5}}
    algorithm = make(prepared, {**NO_CLIP, **clipped, "ppo.mini_batch": 4, "ppo.micro_batch": 2})
    update = update_of(algorithm, "policy", roll(algorithm))
    _, half = update.mini_batches
    advantages = half.advantages[half.response_mask].double()
    whitened = (advantages - advantages.mean()) / advantages.std()
    expected = whitened.clamp(-0.5, 0.5)
    assert float(whitened.min()) < -0.5 and float(whitened.max()) > 0.5

    # the ratio is 1
    total = float(step_loss(update, half).total.detach())
    assert total == pytest.approx(-float(expected.mean()), abs=1e-5)


def test_advantages_may_stay_as_they_are(prepared: Workspace) -> None:
    algorithm = make(prepared, {**NO_CLIP, "ppo.advantage": None, "ppo.mini_batch": 4})
    update = update_of(algorithm, "policy", roll(algorithm))
    _, half = update.mini_batches
    advantages = half.advantages[half.response_mask].double()
    total = float(step_loss(update, half).total.detach())
    assert total == pytest.approx(-float(advantages.mean()), abs=1e-5)


# -- the policy's loss --------------------------------------------------------------------------


def test_the_ratio_may_be_taken_against_the_reference(prepared: Workspace) -> None:
    algorithm = make(prepared, {**NO_CLIP, "ppo.importance": "reference"})
    rollout = roll(algorithm)
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    rows = slow_rows(prepared, algorithm, rollout)
    ratios = [math.exp(log_ratio) for row in rows for log_ratio in row.log_ratios]
    advantages = experience.advantages[experience.response_mask].tolist()
    terms = [-ratio * advantage for ratio, advantage in zip(ratios, advantages, strict=True)]

    loss = step_loss(update)
    assert float(loss.total.detach()) == pytest.approx(mean(terms), abs=1e-5)
    assert loss.metrics["ratio_mean"] == pytest.approx(mean(ratios), abs=1e-5)
    # of no meaning here: the first ratio is not 1
    assert loss.tally.peaks == {}


@pytest.mark.parametrize("target", [None, 3.0])
def test_the_entropy_enters_the_loss(prepared: Workspace, target: float | None) -> None:
    algorithm = make(prepared, {"ppo.entropy": {"coefficient": 0.3, "target": target}})
    rollout = roll(algorithm)
    entropies = flat([row.entropies for row in slow_rows(prepared, algorithm, rollout)])
    terms = [-entropy if target is None else abs(entropy - target) for entropy in entropies]

    with_bonus = step_loss(update_of(algorithm, "policy", rollout))
    without = step_loss(update_of(make(prepared), "policy", rollout))
    added = float((with_bonus.total - without.total).detach())
    assert added == pytest.approx(0.3 * mean(terms), abs=1e-5)
    assert with_bonus.metrics["entropy_loss"] == pytest.approx(mean(terms), abs=1e-5)


def test_the_penalty_takes_the_place_of_the_clip(prepared: Workspace) -> None:
    penalty = {"ppo.penalty": {"coefficient": 2.0, "target": None}}
    algorithm = make(prepared, {**NO_CLIP, **penalty})
    rollout = roll(algorithm)
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    # as after some steps on the same buffer
    move(algorithm.models.language_model("policy"), seed=6)

    mask = experience.response_mask
    new = flat([row.logprobs for row in slow_rows(prepared, algorithm, rollout)])
    old, advantages = experience.old_logprobs[mask].tolist(), experience.advantages[mask].tolist()
    log_ratios = [n - o for n, o in zip(new, old, strict=True)]
    divergences = [math.exp(log_ratio) - 1 - log_ratio for log_ratio in log_ratios]
    surrogates = [-math.exp(log) * a for log, a in zip(log_ratios, advantages, strict=True)]
    expected = mean(surrogates) + 2.0 * mean(divergences)

    loss = step_loss(update)
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-4)
    assert loss.metrics["policy_kl"] == pytest.approx(mean(divergences), abs=1e-5)
    assert "clip_fraction" not in loss.metrics


def test_a_penalty_without_a_target_keeps_its_weight(prepared: Workspace) -> None:
    penalty = {"ppo.penalty": {"coefficient": 2.0, "target": None}}
    algorithm = make(prepared, {**NO_CLIP, **penalty})
    rollout = roll(algorithm)
    for _ in range(2):
        policy, _ = updates_of(algorithm, rollout, shown={"policy_kl": 0.5})
        assert policy.metrics["penalty_coefficient"] == 2.0


def test_a_penalty_with_a_target_adapts_its_weight_which_survives(prepared: Workspace) -> None:
    settings = {**NO_CLIP, "ppo.penalty": {"coefficient": 2.0, "target": 0.01}}
    algorithm = make(prepared, settings)
    rollout = roll(algorithm)

    # an iteration in which the critic learns alone changes nothing
    (critic,) = updates_of(algorithm, rollout, iteration=-1, shown={"value_loss": 1.0})
    assert "penalty_coefficient" not in critic.metrics
    policy, _ = updates_of(algorithm, rollout, shown={"policy_kl": 0.5})
    assert policy.metrics["penalty_coefficient"] == 2.0

    resumed = make(prepared, settings)
    resumed.load_state(algorithm.state())
    for weight, divergence in ((4.0, 0.01), (4.0, 0.001), (2.0, 0.01)):
        policy, _ = updates_of(resumed, rollout, shown={"policy_kl": divergence})
        assert policy.metrics["penalty_coefficient"] == weight


# -- rewards ------------------------------------------------------------------------------------
#
# With lambda 1 and no KL penalty the first return of a response is its score.

MONTE_CARLO = {"ppo.kl": None, "ppo.gae.lambda": 1.0}


def test_scaled_rewards_keep_their_mean(prepared: Workspace) -> None:
    scaled = {"ppo.reward": {"normalise": None, "scale": "running", "clip": None}}
    algorithm = make(prepared, {**MONTE_CARLO, **scaled})
    rollout = roll(algorithm)
    raw = algorithm.validate(rollout).scores.double()
    (experience,) = update_of(algorithm, "policy", rollout).mini_batches
    expected = (raw / raw.std()).tolist()
    assert experience.returns[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_rewards_are_clipped_after_normalisation(prepared: Workspace) -> None:
    algorithm = make(prepared, {**MONTE_CARLO, "ppo.reward.clip": 0.3})
    rollout = roll(algorithm)
    raw = algorithm.validate(rollout).scores.double()
    (experience,) = update_of(algorithm, "policy", rollout).mini_batches
    normalised = (raw - raw.mean()) / raw.std()
    assert float(normalised.min()) < -0.3 and float(normalised.max()) > 0.3
    expected = normalised.clamp(-0.3, 0.3).tolist()
    assert experience.returns[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_every_token_pays_for_its_divergence(prepared: Workspace, estimator: str) -> None:
    """With gamma and lambda 1 a return is all that is paid from its token on."""
    settings = {
        "ppo.kl": {"coefficient": 0.7, "estimator": estimator},
        "ppo.gae": {"gamma": 1.0, "lambda": 1.0},
        "ppo.reward": NO_REPARAMETERISATION,
    }
    algorithm = make(prepared, settings)
    rollout = roll(algorithm)
    rows = slow_rows(prepared, algorithm, rollout)
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    formulas = {
        "k1": lambda log: log,
        "k2": lambda log: log**2 / 2,
        "k3": lambda log: math.exp(-log) - 1 + log,
    }
    paid = []
    for returns, row in zip(experience.returns, rows, strict=True):
        penalties = [-0.7 * formulas[estimator](log) for log in row.log_ratios]
        count = len(penalties)
        # all that is paid from a token on
        expected = [row.score + sum(penalties[t:]) for t in range(count)]
        assert returns[:count].tolist() == pytest.approx(expected, abs=1e-4)
        paid.append(sum(penalties))

    # what each source pays a response
    shares = {"final_score": mean([row.score for row in rows]), "kl_penalty": mean(paid)}
    for name, share in shares.items():
        assert update.metrics[f"token_reward_{name}"] == pytest.approx(share, abs=1e-4)


def test_with_every_detail_off_it_is_vanilla(prepared: Workspace) -> None:
    off = {
        "ppo.kl": None,
        "ppo.reward": NO_REPARAMETERISATION,
        "ppo.surrogate_clip": None,
        "ppo.value_clip": None,
        "ppo.gae.lambda": 1.0,
        "ppo.penalty": None,
        "ppo.entropy": None,
    }
    algorithm = make(prepared, off)
    rollout = roll(algorithm)
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    rewards = algorithm.validate(rollout).scores.tolist()
    for returns, reward, length in zip(
        experience.returns, rewards, rollout.lengths.tolist(), strict=True
    ):
        assert returns[:length].tolist() == pytest.approx([reward] * length, abs=1e-5)

    assert update.metrics["reward_normalised"] == pytest.approx(update.metrics["reward"])
    # still watched
    assert update.metrics["kl"] != 0.0
    logged = step_loss(update).metrics.keys()
    assert logged == {"policy_loss", "ratio_mean", "ratio_max_deviation", "first_ratio_deviation"}


@torch.no_grad()
def test_the_objective_s_penalty_is_the_paper_s_where_the_penalty_is_off(
    prepared: Workspace,
) -> None:
    algorithm = make(prepared, {"ppo.kl": None})
    validation = algorithm.validate(roll(algorithm))
    expected = validation.scores / 0.5 - 0.05 * validation.metrics["kl_sequence"]
    torch.testing.assert_close(validation.objective, expected)
