"""Without a critic: what a response is worth, compared with others, and losses of whole responses.

Rewards are one a response, [B]. The rows of one prompt, a group, lie side by side, `responses` of
them, all on one process.
"""

from typing import Literal

import torch
from torch import Tensor

from rlhf.ppo.losses import surrogate
from rlhf.ppo.moments import AllSum, Moments, merge

# added to a standard deviation before dividing by it: as in TRL's GRPOTrainer
_STD_FLOOR = 1e-4

# -- advantages ------------------------------------------------------------------------------------


def group_mean(rewards: Tensor, responses: int) -> Tensor:
    """The mean reward of each row's group, [B] -> [B]; ValueError for rows that are no whole groups."""
    groups = _groups(rewards, responses)
    # counted from the first: equal rewards have exactly themselves as their mean
    first = groups[:, :1]
    means = first + (groups - first).mean(dim=1, keepdim=True)
    return means.expand_as(groups).flatten()


def leave_one_out(rewards: Tensor, responses: int) -> Tensor:
    """RLOO's advantage, [B] -> [B] (Ahmadian et al. 2024, arXiv 2402.14740; as TRL's RLOOTrainer).

    A_i = R_i - mean of the group's other R = k / (k - 1) (R_i - mean R),  k responses to a prompt

    0 in a group of equal rewards. Raises ValueError for groups of fewer than two.
    """
    if responses < 2:
        raise ValueError(f"a group of {responses}: there is no other response to compare with")
    centred = rewards - group_mean(rewards, responses)
    return centred * (responses / (responses - 1))


def group_advantages(
    rewards: Tensor, responses: int, scale: Literal["group", "batch"] | None, all_sum: AllSum
) -> Tensor:
    """GRPO's advantage, [B] -> [B] (DeepSeekMath, arXiv 2402.03300, section 4.1.2).

    A_i = (R_i - mean R) / (std R + 1e-4)       mean over the group

    scale: what the std is of: the group; the batch of all processes, whose parts `all_sum` adds up;
    None leaves it out (Dr. GRPO, arXiv 2503.20783). The std is the unbiased one; the paper does not
    say which, and has no 1e-4: both are TRL's. 0 in a group of equal rewards. Raises ValueError for
    groups of fewer than two.
    """
    if responses < 2:
        raise ValueError(f"a group of {responses}: there is no other response to compare with")
    centred = rewards - group_mean(rewards, responses)
    if scale is None:
        return centred
    if scale == "batch":
        return centred / (merge(Moments(), rewards, all_sum).std + _STD_FLOOR)
    groups = _groups(centred, responses)
    return (groups / (groups.std(dim=1, keepdim=True) + _STD_FLOOR)).flatten()


def reward_to_go(rewards: Tensor, response_mask: Tensor) -> Tensor:
    """G_t = r_t + r_{t+1} + ... to the end of the response, undiscounted; [B, R], 0 outside the mask."""
    return (rewards * response_mask).flip(1).cumsum(1).flip(1) * response_mask


def _groups(rewards: Tensor, responses: int) -> Tensor:
    """[B] -> [B / responses, responses]: a row a prompt."""
    if len(rewards) % responses:
        raise ValueError(f"{len(rewards)} responses are not in groups of {responses}")
    return rewards.reshape(-1, responses)


# -- losses of whole responses ---------------------------------------------------------------------


def sequence_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    epsilon: float | None,
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of each response as one action, and its ratio rho; both [B].

    L = -min(rho A, clip(rho, 1 - eps, 1 + eps) A)
    rho = pi(y|x) / pi_old(y|x) = exp(sum_t log pi_t - log pi_old_t)

    logprobs, old_logprobs, response_mask: [B, R]; advantages: [B]. None for epsilon: -rho A. As
    TRL's RLOOTrainer. Before the first step rho is 1 and the gradient -A grad log pi: the paper's
    REINFORCE, which has no ratio.
    """
    log_ratio = ((logprobs - old_logprobs) * response_mask).sum(dim=1)
    return surrogate(log_ratio, torch.zeros_like(log_ratio), advantages, epsilon)


def response_weights(response_mask: Tensor, mean_length: float) -> Tensor:
    """Weights of tokens under which a mean over tokens is one over responses; [B, R] -> [N].

    w_t = mean length / length of t's response

    mean_length: tokens a response, of all that the mean is over, not only of these rows. The mean
    of w_t l_t over all tokens is that of the responses' means of l.
    """
    lengths = response_mask.sum(dim=1, keepdim=True)
    return (mean_length / lengths).expand_as(response_mask)[response_mask]
