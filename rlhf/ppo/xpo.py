"""Exploratory preference optimisation (arXiv 2405.21046): the term that it adds to DPO's loss.

The paper's own text was not at hand: the term is as restated in arXiv 2412.01951 and as in TRL's
`XPOTrainer` and sail-sg/oat, which agree.
"""

from collections.abc import Sequence

from torch import Tensor

# of log pi / pi_ref, where both responses are the policy's: as in the paper's experiments, by a
# restatement
BOUND = 500.0


def exploration_term(logprobs: Tensor, alpha: float) -> Tensor:
    """What the loss of each pair gains, [B], from log pi of the second response, a sum over it, [B].

    + alpha log pi(y~)

    The loss is minimised, so the second response, which is the reference's, becomes *less* likely:
    optimism about the others, no bonus for the reference. Its gradient is +alpha on log pi of every
    token of y~. DPO's is at most beta, so an alpha above beta sigma(-h) turns the update of a
    preferred y~ round.
    """
    return alpha * logprobs


def bounded_exploration_term(
    logprobs: Tensor, reference_logprobs: Tensor, alpha: float, bound: float = BOUND
) -> Tensor:
    """The same where the second response is the policy's too: sums over it, [B] each -> [B].

    + alpha clip(log pi(y~) - log pi_ref(y~), -bound, bound)

    The reference is a constant; beyond the bound nothing more is learnt from the term.
    """
    return alpha * (logprobs - reference_logprobs).clamp(-bound, bound)


def alpha_at(alphas: Sequence[float], iteration: int) -> float:
    """The weight of iteration `iteration` (from 0): the last of `alphas` holds on."""
    return alphas[min(iteration, len(alphas) - 1)]
