"""What two scored draws and their pairs are described by in the step log, before learning."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.evaluation.types import Facts, Preference
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
    pair_accuracy: the share of the others that the implicit reward ranks as they are ranked, a half
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
    """How many pairs count, and how many of them the implicit reward ranks as they are ranked."""
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


def judge_metrics(
    judged: Sequence[Preference | None],
    by_scores: Sequence[Preference | None],
    facts: Facts,
    device: torch.device,
    all_sum: AllSum,
) -> dict[str, Value]:
    """What a judge that ranks pairs is described by, over all processes.

    unjudged: the share of pairs without a verdict: no readable answer, or beyond the judge's `limit`
    judge_agreement: of the pairs in which judge and rewards prefer a response, the share in which it is
        the same one; None where there are none
    judge_<fact>: each of `facts`, what the judge reports of itself since the run began or was resumed
    """
    rows = zip(judged, by_scores, strict=True)
    decided = [pair for pair in rows if set(pair) <= {"first", "second"}]
    same = sum(one == other for one, other in decided)
    own = [list(judged).count(None), len(judged), same, len(decided)]
    totals = all_sum(torch.tensor(own, dtype=torch.float64, device=device))
    unjudged, pairs, agreed, compared = totals.tolist()
    return {
        **{f"judge_{name}": value for name, value in facts.items()},
        "unjudged": unjudged / pairs,
        "judge_agreement": agreed / compared if compared else None,
    }


def _log_ratio(scores: Scores) -> Tensor:
    """log pi - log pi_ref of each response, a sum over its tokens, [B]."""
    return (scores.logprobs - scores.reference_logprobs).sum(dim=1)
