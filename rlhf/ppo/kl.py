"""Detail 1: estimating the KL divergence from the reference, token by token."""

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(
    logprobs: Tensor, reference_logprobs: Tensor, estimator: Estimator = "k1"
) -> Tensor:
    """Estimate KL(pi || pi_ref) of each sampled token in nats, any shape -> the same shape.

    With d = log pi - log pi_ref of the sampled token:
    k1 = d                 unbiased, what eq. 19 uses
    k2 = d^2 / 2           biased, never negative
    k3 = exp(-d) - 1 + d   unbiased, never negative
    """
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return (-difference).exp() - 1 + difference
