"""DPO (arXiv 2305.18290) seen token by token (arXiv 2404.12358): losses of pairs, rewards of tokens.

y+ is the chosen answer of a pair and y- the rejected one. log pi(y) is the sum over all tokens of an
answer, its end token included: a mean would be another objective. Everything is at temperature 1.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def implicit_rewards(logprobs: Tensor, reference_logprobs: Tensor, beta: float) -> Tensor:
    """The reward that a policy stands for, any shape -> the same shape: of tokens, or of answers.

    r = beta (log pi - log pi_ref)

    Of a token it is the optimal advantage r(s, a) + V*(s') - V*(s) of the KL-regularised problem
    (arXiv 2404.12358, eq. 10): the reward up to a shaping by V*, which no preference tells apart.
    Over a response these add up to its reward less V*(s_0).
    """
    return beta * (logprobs - reference_logprobs)


def dpo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    reference_chosen_logprobs: Tensor,
    reference_rejected_logprobs: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of each pair, [B], from summed log-probabilities [B].

    h = beta (log pi(y+) - log pi_ref(y+)) - beta (log pi(y-) - log pi_ref(y-))
    L = -(1 - eps) log sigmoid(h) - eps log sigmoid(-h)

    eps is `label_smoothing`, the share of pairs taken to be labelled the wrong way round; 0 is
    eq. 7 of arXiv 2305.18290. Every token of an answer gets the same gradient, -beta sigmoid(-h) for
    the chosen and its opposite for the rejected one.
    """
    chosen = implicit_rewards(chosen_logprobs, reference_chosen_logprobs, beta)
    rejected = implicit_rewards(rejected_logprobs, reference_rejected_logprobs, beta)
    margin = chosen - rejected
    as_labelled = -(1 - label_smoothing) * logsigmoid(margin)
    the_other_way = -label_smoothing * logsigmoid(-margin)
    return as_labelled + the_other_way


def ipo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    reference_chosen_logprobs: Tensor,
    reference_rejected_logprobs: Tensor,
    beta: float,
) -> Tensor:
    """The squared loss of IPO (arXiv 2310.12036, eq. 17) of each pair, [B], from sums [B].

    L = ((log pi(y+) - log pi_ref(y+)) - (log pi(y-) - log pi_ref(y-)) - 1 / (2 beta))^2

    On sums, as in the paper and in the DPO authors' code; TRL takes means over an answer's tokens.
    """
    chosen = chosen_logprobs - reference_chosen_logprobs
    rejected = rejected_logprobs - reference_rejected_logprobs
    return (chosen - rejected - 1 / (2 * beta)).square()
