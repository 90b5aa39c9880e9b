"""Advantage-induced policy alignment (arXiv 2306.02231): regression of log-probabilities."""

from torch import Tensor


def apa_loss(
    logprobs: Tensor, reference_logprobs: Tensor, advantages: Tensor, lam: float
) -> Tensor:
    """The squared loss of each token, [N].

    L = (log pi - log pi_ref - A / lambda)^2

    Its minimum over all policies is pi* = pi_ref exp(A / lambda) where that sums to 1: APA takes
    its normaliser for 1. The sampling policy enters by the tokens and by A alone: there is no
    ratio, no clip, and no KL penalty in the reward. lambda is in the units of A: say how those are
    scaled. As in the authors' code (microsoft/RLHF-APA, loss "square"); equation as cited in public
    reviews.
    """
    target = reference_logprobs + advantages / lam
    return (logprobs - target).square()


def awr_loss(logprobs: Tensor, advantages: Tensor, lam: float) -> Tensor:
    """Advantage-weighted regression, the control of the APA paper; the loss of each token, [N].

    L = -exp(A / lambda) log pi

    Towards pi_old exp(A / lambda): the sampling policy takes the place of the reference. The weights
    are not bounded: whitened advantages go with lambda 1, with 0.1 the weights explode. As in the
    authors' code, loss "log", where 1 / lambda is 0.5 or 1 (microsoft/RLHF-APA).
    """
    weights = (advantages / lam).exp()
    return -weights * logprobs
