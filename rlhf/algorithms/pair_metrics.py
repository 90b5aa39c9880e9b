"""What two scored draws and their pairs are described by in the step log, before learning."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.moments import AllSum
from rlhf.rollout.records import Rollout, Scores
from rlhf.rollout.sampled_pairs import SampledPair


def pair_metrics(
    first: Rollout,
    first_scores: Scores,
    second_scores: Scores,
    pairs: Sequence[SampledPair],
    all_sum: AllSum,
) -> dict[str, Value]:
    """Means over all processes, of the first draw unless said otherwise.

    reward_second: of the second draw; reward_margin: how much better the first is
    ties: the share of pairs that count for nothing
    pair_accuracy: the share of the others that the implicit reward ranks as the rewards do, a half
        for each that it does not rank; None where there are none
    """
    mask = first.response_mask
    kl = kl_estimate(first_scores.logprobs, first_scores.reference_logprobs) * mask
    rewards = first_scores.scores
    gap = (first_scores.logprobs - first.sampler_logprobs)[mask]
    tally = Tally()
    tally.add(
        reward=rewards,
        reward_squared=rewards.square(),
        reward_second=second_scores.scores,
        reward_margin=rewards - second_scores.scores,
        kl=kl[mask],
        kl_sequence=kl.sum(dim=1),
        response_length=first.lengths.float(),
        finished=first.finished.float(),
        logprob=first_scores.logprobs[mask],
        entropy=first_scores.entropies[mask],
        sampler_logprob_gap=gap.abs(),
    )
    means = tally.means(all_sum)
    variance = means.pop("reward_squared") - means["reward"] ** 2
    means["reward_std"] = max(0.0, variance) ** 0.5
    means["perplexity"] = math.exp(-means.pop("logprob"))
    return {**means, **_agreement(first_scores, second_scores, pairs, all_sum)}


def _agreement(
    first: Scores, second: Scores, pairs: Sequence[SampledPair], all_sum: AllSum
) -> dict[str, Value]:
    """How many pairs count, and how many of them the implicit reward ranks as the rewards do."""
    device = first.scores.device
    counts = torch.tensor([pair.weight > 0 for pair in pairs], device=device)
    second_wins = torch.tensor([pair.second_is_chosen for pair in pairs], device=device)
    lead = _log_ratio(first) - _log_ratio(second)
    lead = torch.where(second_wins, -lead, lead)
    # a policy that has not moved ranks nothing
    ranked = (lead > 0).double() + 0.5 * (lead == 0).double()
    own = torch.stack(
        [counts.sum().double(), ranked[counts].sum(), counts.numel() + 0 * ranked.sum()]
    )
    counting, right, total = all_sum(own).tolist()
    return {
        "ties": 1 - counting / total,
        "pair_accuracy": right / counting if counting else None,
    }


def _log_ratio(scores: Scores) -> Tensor:
    """log pi - log pi_ref of each response, a sum over its tokens, [B]."""
    return (scores.logprobs - scores.reference_logprobs).sum(dim=1)
