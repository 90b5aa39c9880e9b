"""From a score per response to a reward per token: reparameterisation (details 4 and 5) and the KL penalty (eq. 3, 19)."""

import torch
from torch import Tensor

from rlhf.ppo.moments import Moments


def normalise(scores: Tensor, history: Moments) -> Tensor:
    """Detail 5: (r - mean) / std with the moments of the history, any shape."""
    return (scores - history.mean) / history.std


def scale(scores: Tensor, history: Moments) -> Tensor:
    """Detail 4: r / std with the moments of the history, the mean stays; [B] -> [B]."""
    return scores / history.std


def clip(values: Tensor, delta: float | None) -> Tensor:
    """Details 5 and 6: to [-delta, delta], any shape; None leaves the values alone."""
    return values if delta is None else values.clamp(-delta, delta)


def token_rewards(
    scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coefficient: float
) -> Tensor:
    """r_t = -eta * KL_t on response tokens, plus the score at the last response token (eq. 3, 19).

    scores [B], kl [B, R], response_mask [B, R] True on response tokens -> [B, R] float32, 0 outside the mask.
    """
    rewards = torch.where(response_mask, -kl_coefficient * kl, torch.zeros_like(kl))
    last = response_mask.sum(dim=1) - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] += scores
    return rewards
