"""The losses of policy and critic, one value a token, [N] over the response tokens.

The caller divides once: a mean over the response tokens of the whole mini-batch is a sum here,
divided by the global count there, so that micro-batches and processes change nothing.
"""

import torch
from torch import Tensor

# -- the policy ------------------------------------------------------------------------------------


def surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, epsilon: float | None
) -> tuple[Tensor, Tensor]:
    """Details 2 and 11, the clipped surrogate (eq. 15), and the ratio rho; all [N].

    L = -min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi / pi_old.  None for epsilon: -rho A.
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = ratio * advantages
    if epsilon is None:
        return -plain, ratio
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    return -torch.minimum(plain, clipped), ratio


def policy_kl(ratio: Tensor) -> Tensor:
    """KL(pi_old || pi) in nats from rho = pi / pi_old of tokens that pi_old sampled; never negative.

    rho - 1 - log rho: unbiased, and its gradient (rho - 1) grad log pi vanishes where the policies
    agree, as the exact one does; that of -log rho would be noise of mean 0 there.
    """
    return ratio - 1 - ratio.log()


def adapted(coefficient: float, divergence: float, target: float) -> float:
    """The penalty's weight after an iteration whose updates saw KL(pi_old || pi) = `divergence` (eq. 14).

    Halved below target / 1.5, doubled above 1.5 target (Schulman et al. 2017, section 4); nats.
    """
    if divergence < target / 1.5:
        return coefficient / 2
    if divergence > target * 1.5:
        return coefficient * 2
    return coefficient


def entropy_loss(entropies: Tensor, target: float | None) -> Tensor:
    """Detail 3: what is added, weighted, to the loss of each token; entropies in nats.

    None: -H, the more entropy the better. Else |H - target|: drawn towards it from either side.
    """
    if target is None:
        return -entropies
    return (entropies - target).abs()


# -- the critic ------------------------------------------------------------------------------------


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Detail 7, the clipped value loss (eq. 16), and where the clip won.

    L = 1/2 max((V - R)^2, (clip(V, V_old - l, V_old + l) - R)^2).  None for clip: 1/2 (V - R)^2.
    """
    plain = (values - returns).square()
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain, dtype=torch.bool)
    bounded = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
    clipped = (bounded - returns).square()
    return 0.5 * torch.maximum(plain, clipped), clipped > plain
