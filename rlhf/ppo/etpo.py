"""Entropy-regularised token-level policy optimisation (ETPO, arXiv 2402.06700): soft Q of every token.

N states, V vocabulary: a state is a prompt and the response so far, an action the next token.
Expectations and KL are exact, sums over the whole vocabulary. The equations were checked against the
authors' code (morning9393/ETPO) and the identities of soft Q-learning, not against the paper's text.
"""

import torch
from torch import Tensor

from rlhf.ppo.rewards import final_score

# -- soft values and targets -----------------------------------------------------------------------


def exact_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(pi || pi_ref) of each state in nats, [N], from logits [N, V]."""
    logprobs = logits.log_softmax(dim=1)
    return (logprobs.exp() * (logprobs - reference_logits.log_softmax(dim=1))).sum(dim=1)


def soft_values(logits: Tensor, reference_logits: Tensor, q: Tensor, beta: float) -> Tensor:
    """The soft value of each state, [N], from logits and action values [N, V].

    V(s) = E_{w ~ pi}[Q(s, w)] - beta KL(pi(.|s) || pi_ref(.|s))
    """
    expected_q = (logits.softmax(dim=1) * q).sum(dim=1)
    return expected_q - beta * exact_kl(logits, reference_logits)


def soft_targets(values: Tensor, scores: Tensor, response_mask: Tensor) -> Tensor:
    """What Q of each token taken should be, [B, R]; 0 outside the mask.

    y_t = V(s_{t+1}),  y_n = r at the last token.

    values: [B, R] V of the state before each token, by the target network; scores: [B]. No discount:
    inside an action the optimum would change with it, and the whole response is one action, after
    which nothing follows. The authors' code bootstraps where a response is cut; here it is paid r.
    """
    following = torch.zeros_like(values)
    following[:, :-1] = torch.where(response_mask[:, 1:], values[:, 1:], 0.0)
    return following + final_score(scores, response_mask)


# -- losses ----------------------------------------------------------------------------------------


def etpo_critic_loss(q: Tensor, targets: Tensor, delta: float | None) -> Tensor:
    """The Huber loss of the token taken, [N]; None for delta: 1/2 e^2 everywhere.

    L = 1/2 e^2 where |e| <= delta, else delta (|e| - delta / 2), with e = Q(s, w) - y.

    The authors' Huber loss is 0 below -delta; this one is symmetric.
    """
    error = q - targets
    squared = 0.5 * error.square()
    if delta is None:
        return squared
    return torch.where(error.abs() <= delta, squared, delta * (error.abs() - delta / 2))


def etpo_policy_loss(logits: Tensor, reference_logits: Tensor, q: Tensor, beta: float) -> Tensor:
    """The loss of each state, [N], from logits and action values [N, V].

    L = sum_w pi(w|s) (beta log pi(w|s) / pi_ref(w|s) - Q(s, w)) = -V(s)

    It is beta KL(pi || pi*) less a constant, with pi* = pi_ref exp(Q / beta) / Z. Its gradient on
    logit k is pi_k (g_k - sum_w pi_w g_w), g = beta log pi / pi_ref - Q.
    """
    return -soft_values(logits, reference_logits, q, beta)


def etpo_published_loss(logits: Tensor, q: Tensor, beta: float) -> Tensor:
    """The policy's loss as the authors' code has it, [N]: a control, which cannot learn.

    L = 1/V sum_w (beta log pi(w|s) - Q(s, w)),  Q without a gradient.

    The plain mean leaves nothing of Q in the gradient, which on logit k is beta (1 / V - pi_k): the
    policy sharpens whatever the critic says. There is no pi_ref in it either. The code has an
    expectation under pi beside it, commented out; which of both gave the paper's results is not known.
    """
    return (beta * logits.log_softmax(dim=1) - q.detach()).mean(dim=1)


def q_spread(logits: Tensor, q: Tensor) -> Tensor:
    """The standard deviation of Q(s, w) over w ~ pi, [N]: how much the critic tells tokens apart."""
    probabilities = logits.softmax(dim=1)
    mean = (probabilities * q).sum(dim=1, keepdim=True)
    return (probabilities * (q - mean).square()).sum(dim=1).sqrt()
