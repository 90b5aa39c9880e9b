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
