"""Pairs of sampled responses: ranked, kept over iterations, learnt from.

    two rollouts -> SampledPair, one a prompt -> PairExperience, one a mini-batch

B pairs, T longest sequence of prompt and response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.batches.padding import Ids, TokenBatch, pad_responses
from rlhf.evaluation.types import Preference
from rlhf.rollout.records import Rollout, Scores


@dataclass(frozen=True)
class SampledPair:
    """Two responses to a prompt, the better one first, as token ids.

    reference_chosen, reference_rejected: log pi_ref of each, a sum over its tokens, in nats
    second_is_chosen: whether the better one is that of the second draw
    weight: 1, or 0 where there is nothing to prefer: it counts for nothing, but keeps its place
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reference_chosen: float
    reference_rejected: float
    second_is_chosen: bool
    weight: float


def ranked_pairs(
    first: Rollout,
    second: Rollout,
    first_scores: Scores,
    second_scores: Scores,
    preferences: Sequence[Preference | None],
) -> list[SampledPair]:
    """One pair a prompt from two rollouts of the same prompts.

    preferences: which response of each pair is better; None: nobody could tell

    Ties, pairs that nobody could judge, and pairs of equal responses get weight 0; the first response
    is then the chosen one. Raises ValueError for rollouts of different prompts.
    """
    if first.prompts.positions != second.prompts.positions:
        raise ValueError("the two rollouts of a pair must be of the same prompts, in one order")
    rows = zip(
        first.prompts.ids,
        first.responses,
        second.responses,
        first_scores.reference_logprobs.sum(dim=1).tolist(),
        second_scores.reference_logprobs.sum(dim=1).tolist(),
        preferences,
        strict=True,
    )
    pairs = []
    for prompt, one, other, reference, other_reference, preferred in rows:
        # equal responses may get scores that rounding sets apart
        decided = preferred in ("first", "second") and one != other
        second_wins = decided and preferred == "second"
        pairs.append(
            SampledPair(
                prompt=prompt,
                chosen=other if second_wins else one,
                rejected=one if second_wins else other,
                reference_chosen=other_reference if second_wins else reference,
                reference_rejected=reference if second_wins else other_reference,
                second_is_chosen=second_wins,
                weight=1.0 if decided else 0.0,
            )
        )
    return pairs


def preferences_of_scores(first: Scores, second: Scores) -> list[Preference | None]:
    """The response of each pair with the higher score.

    None where a reward could tell of one response alone: the other's 0 is no score of it.
    """
    preferences: list[Preference | None] = []
    lead = (first.scores - second.scores).tolist()
    for difference, half_judged in zip(lead, _half_judged(first, second), strict=True):
        if half_judged:
            preferences.append(None)
        elif difference == 0:
            preferences.append("tie")
        else:
            preferences.append("first" if difference > 0 else "second")
    return preferences


def _half_judged(first: Scores, second: Scores) -> list[bool]:
    half = torch.zeros_like(first.scores, dtype=torch.bool)
    for name, source in first.sources.items():
        one, other = source.failed, second.sources[name].failed
        if one is not None and other is not None:
            half = half | (one != other)
    judged: list[bool] = half.tolist()
    return judged


# -- what is learnt from ---------------------------------------------------------------------------


@dataclass(frozen=True)
class PairExperience:
    """Pairs as a loss reads them.

    batch: [2B, T] prompt and response, targets on the response; the two rows of a pair lie side by
        side, the chosen one first
    reference_logprobs: [B, 2] log pi_ref of the chosen and of the rejected response, sums
    second_is_chosen: [B] bool, whether the chosen response is that of the second draw
    weights: [B] of each pair in the loss
    """

    batch: TokenBatch
    reference_logprobs: Tensor
    second_is_chosen: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def select(self, pairs: Tensor) -> "PairExperience":
        """Some of the pairs, [b] int64; padding that none of them needs is cut off."""
        rows = torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten()
        return PairExperience(
            batch=self.batch.select(rows),
            reference_logprobs=self.reference_logprobs[pairs],
            second_is_chosen=self.second_is_chosen[pairs],
            weights=self.weights[pairs],
        )

    def split(self, size: int) -> list["PairExperience"]:
        """The pairs in their order, `size` at a time."""
        pairs = torch.arange(len(self), device=self.weights.device)
        return [self.select(part) for part in pairs.split(size)]

    def evidence(self) -> dict[str, Any]:
        """Tokens and weights, for the record of a refused step."""
        return {
            "input_ids": self.batch.input_ids.tolist(),
            "reference_logprobs": [
                [str(value) for value in row] for row in self.reference_logprobs.tolist()
            ],
            "weights": self.weights.tolist(),
        }


def pair_experience(
    pairs: Sequence[SampledPair], pad_id: int, device: torch.device
) -> PairExperience:
    """Join the prompts of some pairs with both responses, on `device`."""
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    responses = [response for pair in pairs for response in (pair.chosen, pair.rejected)]
    reference = [(pair.reference_chosen, pair.reference_rejected) for pair in pairs]
    return PairExperience(
        batch=pad_responses(prompts, responses, pad_id).to(device),
        reference_logprobs=torch.tensor(reference, device=device),
        second_is_chosen=torch.tensor([pair.second_is_chosen for pair in pairs], device=device),
        weights=torch.tensor([pair.weight for pair in pairs], device=device),
    )


# -- checkpoints -----------------------------------------------------------------------------------


def pairs_state(pairs: Sequence[SampledPair]) -> dict[str, Any]:
    """A table of pairs as a tree of tensors, for a checkpoint; there may be none."""
    numbers = [
        [pair.reference_chosen, pair.reference_rejected, pair.second_is_chosen, pair.weight]
        for pair in pairs
    ]
    return {
        "prompt": _flat([pair.prompt for pair in pairs]),
        "chosen": _flat([pair.chosen for pair in pairs]),
        "rejected": _flat([pair.rejected for pair in pairs]),
        "numbers": torch.tensor(numbers, dtype=torch.float64).reshape(-1, 4),
    }


def pairs_from_state(state: Mapping[str, Any]) -> list[SampledPair]:
    """What `pairs_state` was given."""
    columns = (_unflat(state[name]) for name in ("prompt", "chosen", "rejected"))
    rows = zip(*columns, state["numbers"].tolist(), strict=True)
    return [
        SampledPair(prompt, chosen, rejected, reference, other, bool(second), weight)
        for prompt, chosen, rejected, (reference, other, second, weight) in rows
    ]


def _flat(rows: Sequence[Ids]) -> dict[str, Tensor]:
    """Token ids of all rows in one tensor, and how many each row has."""
    tokens = [token for row in rows for token in row]
    return {
        "tokens": torch.tensor(tokens, dtype=torch.int64),
        "lengths": torch.tensor([len(row) for row in rows], dtype=torch.int64),
    }


def _unflat(flat: Mapping[str, Tensor]) -> list[list[int]]:
    lengths: list[int] = flat["lengths"].tolist()
    return [part.tolist() for part in flat["tokens"].split(lengths)]
