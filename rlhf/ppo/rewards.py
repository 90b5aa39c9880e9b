"""From a score per response to a reward per token.

A token reward is a sum of sources, each a function to [B, R] that is 0 outside the response:
the score at the last token and the KL penalty (eq. 3, 19). Before that the score is
reparameterised (details 4 and 5).
"""

import torch
from torch import Tensor

from rlhf.ppo.moments import Moments

# -- reparameterisation ----------------------------------------------------------------------------


def normalise(scores: Tensor, history: Moments) -> Tensor:
    """Detail 5: (r - mean) / std with the moments of the history, any shape."""
    return (scores - history.mean) / history.std


def scale(scores: Tensor, history: Moments) -> Tensor:
    """Detail 4: r / std with the moments of the history, the mean stays; [B] -> [B]."""
    return scores / history.std


def clip(values: Tensor, delta: float | None) -> Tensor:
    """Details 5 and 6: to [-delta, delta], any shape; None leaves the values alone."""
    return values if delta is None else values.clamp(-delta, delta)


# -- sources of the token reward -------------------------------------------------------------------


def final_score(scores: Tensor, response_mask: Tensor) -> Tensor:
    """The score of each response at its last token: scores [B], mask [B, R] -> [B, R]."""
    rewards = torch.zeros(response_mask.shape, dtype=scores.dtype, device=scores.device)
    last = response_mask.sum(dim=1) - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] = scores
    return rewards


def kl_penalty(kl: Tensor, response_mask: Tensor, coefficient: float) -> Tensor:
    """-eta KL_t at each response token (eq. 19): kl [B, R], mask [B, R] -> [B, R]."""
    return torch.where(response_mask, -coefficient * kl, torch.zeros_like(kl))


def dpo_reward(
    dpo_logprobs: Tensor,
    reference_logprobs: Tensor,
    response_mask: Tensor,
    coefficient: float,
    clamp: float | None,
) -> Tensor:
    """beta_1 (log pi_dpo - log pi_ref) at each response token, in [-clamp, clamp]; all [B, R].

    RTO's dense reward (arXiv 2404.18922, eq. 4.7). The clamp, after scaling, is that of the authors'
    code (zkshan2002/RTO); None is the paper, which has none.
    """
    scaled = clip(coefficient * (dpo_logprobs - reference_logprobs), clamp)
    return torch.where(response_mask, scaled, torch.zeros_like(scaled))


def return_correction(source: Tensor, response_mask: Tensor) -> Tensor:
    """Minus the sum of another source over a response, at its last token; [B, R] -> [B, R].

    Beside that source it leaves every return from the first token as it was: what the source still
    does is shaping (the arm RS of arXiv 2404.18922).
    """
    return final_score(-source.sum(dim=1), response_mask)
