"""PPO-max against a slow reference."""

import math
from dataclasses import asdict

import pytest
import torch
from given import step_loss, update_of
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
from tiny import EOS, PAD
from torch import Tensor

from rlhf.algorithms.base import Step
from rlhf.algorithms.on_policy import OnPolicy
from rlhf.batches.padding import TokenBatch, pad
from rlhf.rollout.records import Rollout
from rlhf.workspace import Workspace

ETA = 0.05


@pytest.fixture
def algorithm(prepared: Workspace) -> OnPolicy:
    return make(prepared)


@pytest.fixture
def rollout(algorithm: OnPolicy) -> Rollout:
    rollout = roll(algorithm)
    # padding is involved
    assert len({len(response) for response in rollout.responses}) > 1
    return rollout


@pytest.fixture
def rows(prepared: Workspace, algorithm: OnPolicy, rollout: Rollout) -> list[SlowRow]:
    return slow_rows(prepared, algorithm, rollout)


def slow_advantages_of(rows: list[SlowRow]) -> list[float]:
    scores = normalised_scores(rows)
    pairs = zip(rows, scores, strict=True)
    return flat([slow_advantages(row, score, ETA) for row, score in pairs])


def close(values: Tensor, expected: list[float], within: float = 1e-5) -> None:
    assert values.tolist() == pytest.approx(expected, abs=within)


# -- what is learnt from ------------------------------------------------------------------------


def test_experience_equals_the_slow_reference(
    algorithm: OnPolicy, rollout: Rollout, rows: list[SlowRow]
) -> None:
    (experience,) = update_of(algorithm, "policy", rollout).mini_batches
    mask = experience.response_mask
    assert mask.sum(dim=1).tolist() == [len(response) for response in rollout.responses]

    values = flat([row.values for row in rows])
    advantages = slow_advantages_of(rows)
    returns = [advantage + value for advantage, value in zip(advantages, values, strict=True)]
    close(experience.old_logprobs[mask], flat([row.logprobs for row in rows]))
    close(experience.reference_logprobs[mask], flat([row.reference for row in rows]))
    close(experience.old_values[mask], values)
    close(experience.advantages[mask], advantages, within=1e-4)
    close(experience.returns[mask], returns, within=1e-4)


def test_metrics_of_a_rollout_equal_the_slow_reference(
    algorithm: OnPolicy, rollout: Rollout, rows: list[SlowRow]
) -> None:
    metrics = update_of(algorithm, "policy", rollout).metrics
    scores = torch.tensor([row.score for row in rows], dtype=torch.float64)
    advantages = torch.tensor(slow_advantages_of(rows), dtype=torch.float64)
    values = torch.tensor(flat([row.values for row in rows]), dtype=torch.float64)
    returns = advantages + values
    tokens = len(advantages)
    kl = sum(flat([row.log_ratios for row in rows]))
    finished = [response[-1] == EOS for response in rollout.responses]
    expected = {
        "reward": float(scores.mean()),
        "reward_std": float(scores.std(correction=0)),
        "reward_normalised": 0.0,
        "kl": kl / tokens,
        "kl_sequence": kl / len(rows),
        "response_length": tokens / len(rows),
        "finished": sum(finished) / len(rows),
        "perplexity": math.exp(-mean(flat([row.logprobs for row in rows]))),
        "entropy": mean(flat([row.entropies for row in rows])),
        "advantage_mean": float(advantages.mean()),
        "advantage_std": float(advantages.std(correction=0)),
        "return_mean": float(returns.mean()),
        # a return less its value is the advantage
        "explained_variance": 1 - float(advantages.var() / returns.var()),
        "sampler_logprob_gap": 0.0,
        "token_reward_final_score": 0.0,
        "token_reward_kl_penalty": -ETA * kl / len(rows),
    }
    assert metrics == pytest.approx(expected, abs=2e-4)


def test_validation_equals_the_slow_reference(
    algorithm: OnPolicy, rollout: Rollout, rows: list[SlowRow]
) -> None:
    validation = algorithm.validate(rollout)
    scores = [row.score for row in rows]
    divergences = [sum(row.log_ratios) for row in rows]
    pairs = zip(scores, divergences, strict=True)
    close(validation.scores, scores)
    # the unit of the objective is the std that the reward model notes: 0.5
    close(validation.objective, [score / 0.5 - ETA * kl for score, kl in pairs])

    metrics = validation.metrics
    close(metrics["kl"], flat([row.log_ratios for row in rows]))
    close(metrics["kl_sequence"], divergences)
    close(metrics["surprise"], [-value for value in flat([row.logprobs for row in rows])])
    close(metrics["entropy"], flat([row.entropies for row in rows]))
    assert metrics["length"].tolist() == [len(response) for response in rollout.responses]
    finished = [response[-1] == EOS for response in rollout.responses]
    assert metrics["finished"].tolist() == finished


def test_signals_equal_the_slow_reference(
    algorithm: OnPolicy, rollout: Rollout, rows: list[SlowRow]
) -> None:
    """Of the same responses they are the same, whether these are learnt from or validated."""
    logprobs = flat([row.logprobs for row in rows])
    finished = [float(response[-1] == EOS) for response in rollout.responses]
    expected = {
        "perplexity": math.exp(-mean(logprobs)),
        "response_length": len(logprobs) / len(rows),
        "finished": mean(finished),
        "kl": mean(flat([row.log_ratios for row in rows])),
    }
    update = update_of(algorithm, "policy", rollout)
    for signals in (update.signals, algorithm.validate(rollout).signals):
        assert signals is not None
        assert asdict(signals) == pytest.approx(expected, abs=1e-4)
    # the critic's update shows nothing new of the policy; before the policy learns it is the only one
    assert update_of(algorithm, "critic", rollout).signals is None
    assert update_of(algorithm, "critic", rollout, iteration=-1).signals is not None


# -- how the policy learns ----------------------------------------------------------------------


def test_losses_equal_the_slow_reference(
    prepared: Workspace, algorithm: OnPolicy, rollout: Rollout
) -> None:
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches
    # as after some steps on the same buffer
    move(algorithm.models.language_model("policy"), seed=6)

    mask = experience.response_mask
    new = flat([row.logprobs for row in slow_rows(prepared, algorithm, rollout)])
    old = experience.old_logprobs[mask].tolist()
    ratios = [math.exp(n - o) for n, o in zip(new, old, strict=True)]
    deviations = [abs(ratio - 1) for ratio in ratios]
    assert min(deviations) < 0.2 < max(deviations)

    surrogates = []
    for ratio, advantage in zip(ratios, experience.advantages[mask].tolist(), strict=True):
        clipped = min(max(ratio, 0.8), 1.2)
        surrogates.append(-min(ratio * advantage, clipped * advantage))

    loss = step_loss(update, number=1)
    # micro-batches of four
    assert len(loss.parts) == 2
    assert float(loss.total.detach()) == pytest.approx(mean(surrogates), abs=1e-5)
    expected = {
        "policy_loss": mean(surrogates),
        "ratio_mean": mean(ratios),
        "ratio_max_deviation": max(deviations),
        "clip_fraction": mean([float(deviation > 0.2) for deviation in deviations]),
    }
    assert loss.metrics == pytest.approx(expected, abs=1e-4)


def test_the_first_ratio_is_exactly_one(prepared: Workspace) -> None:
    """Scores and losses take the very same micro-batches."""
    algorithm = make(prepared, {"ppo.mini_batch": 4, "ppo.micro_batch": 2})
    update = update_of(algorithm, "policy", roll(algorithm))
    assert len(update.mini_batches) == 2
    first, second = (
        step_loss(update, batch, number) for number, batch in enumerate(update.mini_batches)
    )
    assert first.tally.peaks == {"ratio_max_deviation": 0.0, "first_ratio_deviation": 0.0}
    # how far the policy was off before it learnt is logged for the first step alone
    assert second.tally.peaks == {"ratio_max_deviation": 0.0}


# -- plain text ---------------------------------------------------------------------------------

WINDOWS = [[5, 6, 7, 8], [9, 10, 11, 12]]


@pytest.fixture
def text() -> TokenBatch:
    return pad(WINDOWS, [[True] * 4] * 2, PAD)


def test_plain_text_adds_its_weighted_loss_at_temperature_one(
    prepared: Workspace, text: TokenBatch
) -> None:
    algorithm = make(prepared, {"ppo.ptx": {"coefficient": 0.1, "windows": 2}})
    update = update_of(algorithm, "policy", roll(algorithm), text=text)
    loss = step_loss(update)

    policy, ids = algorithm.models.language_model("policy"), torch.tensor(WINDOWS)
    with torch.no_grad():
        logprobs = policy(input_ids=ids).logits.log_softmax(-1)
    expected = -float(logprobs[:, :-1].gather(2, ids[:, 1:, None]).mean())

    # two micro-batches of the rollout, then the plain text
    assert len(loss.parts) == 3
    assert float(loss.parts[-1].detach()) == pytest.approx(0.1 * expected, abs=1e-6)
    assert loss.metrics["ptx_loss"] == pytest.approx(expected, abs=1e-5)


def test_plain_text_is_no_concern_of_the_critic(prepared: Workspace, text: TokenBatch) -> None:
    algorithm = make(prepared, {"ppo.ptx": {"coefficient": 0.1, "windows": 2}})
    loss = step_loss(update_of(algorithm, "critic", roll(algorithm), text=text))
    assert len(loss.parts) == 2 and "ptx_loss" not in loss.metrics


def test_a_refused_step_leaves_its_plain_text_too(prepared: Workspace, text: TokenBatch) -> None:
    algorithm = make(prepared, {"ppo.ptx": {"coefficient": 0.1, "windows": 2}})
    update = update_of(algorithm, "policy", roll(algorithm), text=text)
    (batch,) = update.mini_batches
    evidence = update.evidence(Step("policy", batch, 0))
    assert evidence["plain_text"] == WINDOWS
    assert evidence["input_ids"] == batch.batch.input_ids.tolist()
    assert len(evidence["advantages"]) == len(batch)
