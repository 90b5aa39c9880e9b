"""Details of the paper that PPO-max leaves off, or may leave off, each against the slow reference."""

import math

import pytest
import torch
from slow_ppo import flat, make, policy_loss, roll, slow_rows

from rlhf.algorithms import Material
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.core.tally import Tally
from rlhf.workspace import Workspace


def moved(algorithm: PpoMax) -> None:
    """Change the policy as some updates of the same buffer would."""
    with torch.no_grad():
        for value in algorithm.policy().parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(6)))


def test_advantages_are_whitened_over_the_mini_batch_and_then_clipped(prepared: Workspace) -> None:
    algorithm = make(
        prepared, ppo__advantage={"normalise": "mini-batch", "clip": 0.5}, ppo__surrogate_clip=None
    )
    experience, _ = algorithm.experience(Material(roll(algorithm)))
    half = experience.select(torch.arange(4, 8))  # one mini-batch of the buffer
    flat_advantages = half.advantages[half.response_mask].double()
    expected = ((flat_advantages - flat_advantages.mean()) / flat_advantages.std()).clamp(-0.5, 0.5)
    assert float(expected.min()) == -0.5 and float(expected.max()) == 0.5
    total, _ = policy_loss(algorithm, half)
    assert total == pytest.approx(-float(expected.mean()), abs=1e-5)  # the ratio is 1
    plain = make(prepared, ppo__surrogate_clip=None)
    assert policy_loss(plain, half)[0] == pytest.approx(-float(flat_advantages.mean()), abs=1e-5)


def test_the_ratio_may_be_taken_against_the_reference(prepared: Workspace) -> None:
    algorithm = make(prepared, ppo__importance="reference", ppo__surrogate_clip=None)
    rollout = roll(algorithm)
    experience, _ = algorithm.experience(Material(rollout))
    rows = slow_rows(prepared, algorithm, rollout)
    ratios = [
        math.exp(p - r) for row in rows for p, r in zip(row.logprobs, row.reference, strict=True)
    ]
    advantages = experience.advantages[experience.response_mask].tolist()
    total, told = policy_loss(algorithm, experience)
    expected = -sum(ratio * a for ratio, a in zip(ratios, advantages, strict=True)) / len(ratios)
    assert total == pytest.approx(expected, abs=1e-5)
    assert told["ratio_mean"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)
    assert "ratio_max_deviation" not in told  # of no meaning here: the first ratio is not 1


@pytest.mark.parametrize("target", [None, 3.0])
def test_the_entropy_enters_the_loss(prepared: Workspace, target: float | None) -> None:
    algorithm = make(prepared, ppo__entropy={"coefficient": 0.3, "target": target})
    rollout = roll(algorithm)
    experience, _ = algorithm.experience(Material(rollout))
    entropies = flat([row.entropies for row in slow_rows(prepared, algorithm, rollout)])
    terms = [-h if target is None else abs(h - target) for h in entropies]
    with_bonus, told = policy_loss(algorithm, experience)
    without, _ = policy_loss(make(prepared), experience)
    assert with_bonus - without == pytest.approx(0.3 * sum(terms) / len(terms), abs=1e-5)
    assert told["entropy_loss"] == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def test_the_penalty_takes_the_place_of_the_clip(prepared: Workspace) -> None:
    algorithm = make(
        prepared, ppo__penalty={"coefficient": 2.0, "target": None}, ppo__surrogate_clip=None
    )
    rollout = roll(algorithm)
    experience, _ = algorithm.experience(Material(rollout))
    moved(algorithm)
    new = flat([row.logprobs for row in slow_rows(prepared, algorithm, rollout)])
    mask = experience.response_mask
    old, advantages = experience.old_logprobs[mask].tolist(), experience.advantages[mask].tolist()
    logs = [n - o for n, o in zip(new, old, strict=True)]
    divergences = [math.exp(log) - 1 - log for log in logs]
    terms = [
        -math.exp(log) * a + 2.0 * d
        for log, a, d in zip(logs, advantages, divergences, strict=True)
    ]
    total, told = policy_loss(algorithm, experience)
    assert total == pytest.approx(sum(terms) / len(terms), abs=1e-4)
    assert told["policy_kl"] == pytest.approx(sum(divergences) / len(divergences), abs=1e-5)
    assert algorithm.learnt(told) == {"penalty_coefficient": 2.0}
    assert algorithm.state()["penalty"] == 2.0  # fixed


def test_the_penalty_s_weight_adapts_and_survives(prepared: Workspace) -> None:
    settings = {"ppo__penalty": {"coefficient": 2.0, "target": 0.01}, "ppo__surrogate_clip": None}
    algorithm = make(prepared, **settings)
    assert algorithm.learnt({"policy_kl": 0.5}) == {"penalty_coefficient": 2.0}
    assert (
        algorithm.learnt({"value_loss": 1.0}) == {}
    )  # an iteration in which the critic learns alone
    resumed = make(prepared, **settings)
    resumed.load_state(algorithm.state())
    assert resumed.learnt({"policy_kl": 0.01}) == {"penalty_coefficient": 4.0}


def test_scaled_rewards_keep_their_mean(prepared: Workspace) -> None:
    scaled = {"normalise": None, "scale": "running", "clip": None}
    algorithm = make(prepared, ppo__reward=scaled, ppo__kl=None, ppo__gae__lambda=1.0)
    rollout = roll(algorithm)
    raw = algorithm.look(rollout)[0].double()
    experience, _ = algorithm.experience(Material(rollout))
    assert experience.returns[:, 0].tolist() == pytest.approx((raw / raw.std()).tolist(), abs=1e-4)


def test_with_every_detail_off_it_is_vanilla(prepared: Workspace) -> None:
    algorithm = make(
        prepared, ppo__kl=None, ppo__reward__normalise=None, ppo__reward__clip=None, ppo__surrogate_clip=None,
        ppo__value_clip=None, ppo__ptx=None, ppo__gae__lambda=1.0, ppo__penalty=None, ppo__entropy=None,
    )  # fmt: skip
    rollout = roll(algorithm)
    experience, metrics = algorithm.experience(Material(rollout))
    rewards = algorithm.look(rollout)[0]
    for row, length in enumerate(rollout.lengths.tolist()):
        assert experience.returns[row, :length].tolist() == pytest.approx(
            [float(rewards[row])] * length, abs=1e-5
        )
    assert metrics["reward_normalised"] == pytest.approx(metrics["reward"])
    assert metrics["kl"] != 0.0  # still watched
    tally = Tally()
    for loss in algorithm.losses("policy", 0, experience, None, tally):
        loss()
    assert "clip_fraction" not in tally.sums


def test_rewards_are_clipped_after_normalisation(prepared: Workspace) -> None:
    algorithm = make(prepared, ppo__reward__clip=0.3, ppo__kl=None, ppo__gae__lambda=1.0)
    rollout = roll(algorithm)
    raw = algorithm.look(rollout)[0].double()
    experience, _ = algorithm.experience(Material(rollout))
    expected = ((raw - raw.mean()) / raw.std()).clamp(-0.3, 0.3).tolist()
    assert experience.returns[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert min(expected) == -0.3 and max(expected) == 0.3
