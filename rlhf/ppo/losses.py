"""The losses: clipped surrogate (detail 11), clipped value loss (detail 7). Sums over tokens; the caller divides once.

A mean over the response tokens of the whole mini-batch is a sum here divided by the global token count there, so that
micro-batches and processes change nothing.
"""

import torch
from torch import Tensor


def surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, epsilon: float | None
) -> tuple[Tensor, Tensor]:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A) of each token (eq. 15), and the ratio rho; all [N].

    None for epsilon: -rho A.
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = ratio * advantages
    if epsilon is None:
        return -plain, ratio
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    return -torch.minimum(plain, clipped), ratio


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """1/2 max((V - R)^2, (clip(V, V_old - l, V_old + l) - R)^2) of each token (eq. 16), and where the clip won; [N].

    None for clip: 1/2 (V - R)^2.
    """
    plain = (values - returns).square()
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain, dtype=torch.bool)
    bounded = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
    clipped = (bounded - returns).square()
    return 0.5 * torch.maximum(plain, clipped), clipped > plain
