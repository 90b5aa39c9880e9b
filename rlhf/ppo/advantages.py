"""Details 10 and 6: generalised advantage estimation, and whitening over a mini-batch."""

import torch
from torch import Tensor

from rlhf.ppo.moments import AllSum, Moments, merge
from rlhf.ppo.rewards import normalise


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Detail 10: advantages and returns (eq. 9); all tensors [B, R], masked on the right.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t)      the value after the last token is 0
    A_t     = delta_t + gamma lam A_{t+1}          the return is A_t + V(s_t)

    `values[:, t]` is the value of the state before token t. lam = 0 is the TD error, lam = 1 Monte
    Carlo.
    """
    keep = response_mask.to(values.dtype)
    values, rewards = values * keep, rewards * keep
    after_last = torch.zeros_like(values[:, :1])
    following = torch.cat([values[:, 1:], after_last], dim=1)
    deltas = (rewards + gamma * following - values) * keep

    # from the last token backwards
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for step in range(values.shape[1] - 1, -1, -1):
        running = deltas[:, step] + gamma * lam * running
        advantages[:, step] = running
    return advantages, (advantages + values) * keep


def whiten(advantages: Tensor, response_mask: Tensor, all_sum: AllSum) -> Tensor:
    """Detail 6: (A - mean) / std over the response tokens of a mini-batch, [B, R] -> [B, R].

    0 outside the mask. `all_sum` sums over the processes that hold its parts. The std is the
    unbiased one; a mini-batch whose advantages are all equal is only centred.
    """
    moments = merge(Moments(), advantages[response_mask], all_sum)
    return normalise(advantages, moments) * response_mask
