"""What a scored rollout is described by in the step log, before anything is learnt from it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf.algorithms.base import Signals
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.ppo.moments import AllSum
from rlhf.rollout.records import Experience, Rollout, Scores, SourceScores

if TYPE_CHECKING:
    from rlhf.algorithms.on_policy import TokenRewards

# gathered for a variance or a perplexity, not told themselves
_MOMENTS = (
    "reward_squared",
    "advantage_squared",
    "return_squared",
    "error",
    "error_squared",
    "logprob",
)


def rollout_metrics(
    rollout: Rollout,
    scores: Scores,
    rewards: "TokenRewards",
    experience: Experience,
    all_sum: AllSum,
) -> dict[str, Value]:
    """Means over all processes: of responses, and of response tokens."""
    mask = rollout.response_mask
    advantages = experience.advantages[mask]
    gap = (scores.logprobs - rollout.sampler_logprobs)[mask]
    tally = Tally()
    tally.add(
        reward=scores.scores,
        reward_squared=scores.scores.square(),
        reward_normalised=rewards.final,
        kl=rewards.kl[mask],
        kl_sequence=rewards.kl.sum(dim=1),
        response_length=rollout.lengths.float(),
        finished=rollout.finished.float(),
        logprob=scores.logprobs[mask],
        entropy=scores.entropies[mask],
        advantage_mean=advantages,
        advantage_squared=advantages.square(),
        sampler_logprob_gap=gap.abs(),
    )
    # which source dominates
    shares = {name: tokens.sum(dim=1) for name, tokens in rewards.sources.items()}
    tally.add(**{f"token_reward_{name}": share for name, share in shares.items()})
    means = tally.means(all_sum)
    means["reward_std"] = _variance(means, "reward", "reward_squared") ** 0.5
    means["advantage_std"] = _variance(means, "advantage_mean", "advantage_squared") ** 0.5
    means["perplexity"] = math.exp(-means["logprob"])

    return {**_shown(means), **source_metrics(scores.sources, all_sum)}


def source_metrics(sources: Mapping[str, SourceScores], all_sum: AllSum) -> dict[str, float]:
    """Each reward alone, over all processes: mean and spread of its scores as they are, and failures.

    `reward_<name>_failures` is the share of responses that it could not tell of; the other two are of
    the rest, and left out where there is none. Empty for a single reward that can always tell: it is
    the sum.
    """
    if all(scores.failed is None for scores in sources.values()) and len(sources) < 2:
        return {}
    metrics: dict[str, float] = {}
    for name, source in sources.items():
        values = source.scores.double()
        judged = torch.ones_like(values) if source.failed is None else (~source.failed).double()
        sums = torch.stack([judged.sum(), (judged * values).sum(), torch.ones_like(values).sum()])
        count, total, responses = all_sum(sums).tolist()
        key = f"reward_{name}"
        if count:
            mean = total / count
            squares = float(all_sum((judged * (values - mean).square()).sum()))
            metrics |= {key: mean, f"{key}_std": (squares / count) ** 0.5}
        if source.failed is not None:
            metrics[f"{key}_failures"] = 1 - count / responses
    return metrics


def weight_metrics(
    rollout: Rollout, experience: Experience, cap: float, all_sum: AllSum
) -> dict[str, Value]:
    """How far the sampler was from the policy: the mean of its tokens' weights, and how many were cut."""
    assert experience.sampler_weights is not None
    mask = experience.response_mask
    # a ratio of just the cap is none that was cut
    is_cut = (experience.old_logprobs - rollout.sampler_logprobs)[mask] > math.log(cap)
    tally = Tally()
    tally.add(sampler_weight=experience.sampler_weights[mask], sampler_weight_capped=is_cut.float())
    return _shown(tally.means(all_sum))


def critic_metrics(experience: Experience, all_sum: AllSum) -> dict[str, Value]:
    """How well the values that the advantages are made with foretell the returns."""
    mask = experience.response_mask
    returns, errors = experience.returns[mask], (experience.returns - experience.old_values)[mask]
    tally = Tally()
    tally.add(
        return_mean=returns,
        return_squared=returns.square(),
        error=errors,
        error_squared=errors.square(),
    )
    means = tally.means(all_sum)
    return _shown(means) | {"explained_variance": _explained_variance(means)}


def _shown(means: Mapping[str, float]) -> dict[str, Value]:
    return {key: value for key, value in means.items() if key not in _MOMENTS}


def signals_of(rollout: Rollout, scores: Scores, kl: Tensor, all_sum: AllSum) -> Signals:
    """Whether the policy that sampled is sound; kl [B, R] is of its responses."""
    mask = rollout.response_mask
    tally = Tally()
    tally.add(
        nll=-scores.logprobs[mask],
        length=rollout.lengths.float(),
        finished=rollout.finished.float(),
        kl=kl[mask],
    )
    means = tally.means(all_sum)
    return Signals(
        perplexity=math.exp(means["nll"]),
        response_length=means["length"],
        finished=means["finished"],
        kl=means["kl"],
    )


def _explained_variance(means: Mapping[str, float]) -> float | None:
    """1 - Var(return - value) / Var(return); None where all returns are alike."""
    variance = _variance(means, "return_mean", "return_squared")
    unexplained = _variance(means, "error", "error_squared")
    return 1 - unexplained / variance if variance > 0 else None


def _variance(means: Mapping[str, float], mean: str, squared: str) -> float:
    return max(0.0, means[squared] - means[mean] ** 2)
