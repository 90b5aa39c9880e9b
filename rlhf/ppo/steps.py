"""Process supervision: what a process reward model (PRM) learns, pays, and ranks responses by.

p_k is the probability that step k is right, read at the step's last token e_k. All of p [B, R] and
of the step ends [B, R] (bool) may hold anything outside the response; where the steps end is found in
token ids (`rlhf.core.separators`).
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

StepRule = Literal["sum", "difference"]
Aggregate = Literal["min", "product", "last"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)

# -- learning --------------------------------------------------------------------------------------


def step_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each step with a label, [N], from logits [N] and labels [N] from 0 to 1.

    L = -y log sigma(z) - (1 - y) log(1 - sigma(z))

    Hard labels are 0 and 1, soft ones the share of continuations that came to the right answer
    (Math-Shepherd, arXiv 2312.08935, eq. 2 to 4).
    """
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")


# -- a source of the token reward ------------------------------------------------------------------


def step_rewards(
    probabilities: Tensor,
    ends: Tensor,
    response_mask: Tensor,
    rule: StepRule = "sum",
    coefficient: float = 1.0,
) -> Tensor:
    """What the PRM pays at the last token of each step, and 0 elsewhere, [B, R].

    sum:        r_{e_k} = c p_k                        Math-Shepherd, section 3.5
    difference: r_{e_k} = c (p_k - p_{k-1}), p_0 = 0   the rewards of a response sum to c p_K

    A sum grows with the number of steps: it may be milked by writing more of them. The differences
    are those of a potential, and leave the best policy as c p_K at the end has it if gamma is 1;
    that form is our derivation. The learning rate, KL and lengths of Math-Shepherd's PPO were not
    published.
    """
    counted = ends & response_mask
    paid = torch.where(counted, probabilities, torch.zeros_like(probabilities))
    if rule == "difference":
        paid = paid - _probability_before(paid, counted)
    return coefficient * paid


def _probability_before(probabilities: Tensor, ends: Tensor) -> Tensor:
    """At each step end the probability of the step before, 0 at the first and elsewhere, [B, R]."""
    places = torch.arange(ends.shape[1], device=ends.device).expand(ends.shape)
    # the last end up to and with each place, -1 where there is none
    latest = torch.where(ends, places, torch.full_like(places, -1)).cummax(dim=1).values
    before = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)
    found = probabilities.gather(1, before.clamp(min=0))
    return torch.where(ends & (before >= 0), found, torch.zeros_like(found))


# -- ranking ---------------------------------------------------------------------------------------


def solution_scores(
    probabilities: Tensor, ends: Tensor, response_mask: Tensor, aggregate: Aggregate
) -> Tensor:
    """One score for each response, [B] from 0 to 1; 0 for one without a step that ends.

    min:     min_k p_k    Math-Shepherd ranks by it
    product: prod_k p_k   the probability that all are right (Lightman et al., arXiv 2305.20050)
    last:    p_K
    """
    counted = ends & response_mask
    some = counted.any(dim=1)
    # 1 changes neither a minimum nor a product
    padded = torch.where(counted, probabilities, torch.ones_like(probabilities))
    if aggregate == "min":
        scores = padded.min(dim=1).values
    elif aggregate == "product":
        scores = padded.prod(dim=1)
    else:
        places = torch.arange(ends.shape[1], device=ends.device).expand(ends.shape)
        last = torch.where(counted, places, torch.zeros_like(places)).max(dim=1).values
        scores = padded.gather(1, last[:, None]).squeeze(1)
    # nothing speaks for a response that was cut in its first step
    return torch.where(some, scores, torch.zeros_like(scores))


def best_of_n(scores: Tensor, n: int) -> Tensor:
    """The row of the best of each n responses that lie side by side, [B / n] int64; the first of equals.

    Raises ValueError where the rows are no groups of n.
    """
    if n < 1 or len(scores) % n:
        raise ValueError(f"{len(scores)} responses are no groups of {n}")
    groups = scores.view(-1, n)
    # argmax leaves open which of equals it gives
    best = (groups == groups.max(dim=1, keepdim=True).values).int().argmax(dim=1)
    return best + n * torch.arange(len(groups), device=scores.device)
