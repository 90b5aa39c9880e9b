"""RTO's own sources of the token reward (arXiv 2404.18922): what a DPO model says of each token."""

import torch
from torch import Tensor

from rlhf.ppo.rewards import clip, final_score


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
