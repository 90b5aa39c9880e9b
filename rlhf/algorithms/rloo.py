"""RLOO, REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740).

A response as a whole is one action: one reward, one ratio, one advantage. What it is compared with
is the mean reward of the other responses to its prompt. No critic, and one rollout of
`ppo.responses` answers a prompt.
"""

from torch import Tensor

from rlhf.algorithms.base import Step
from rlhf.algorithms.critic_free import CriticFree
from rlhf.algorithms.on_policy import TokenRewards
from rlhf.models.backbone import scatter_to_mask
from rlhf.ppo.groups import leave_one_out, response_weights, sequence_surrogate
from rlhf.rollout.records import Experience, Rollout, Scores


class Rloo(CriticFree):
    """R = score - eta sum_t KL_t;  A_i = R_i - mean of the others' R."""

    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        """The same advantage, and the same return R, at every token of a response."""
        mask = rollout.response_mask
        returns = rewards.total.sum(dim=1)
        advantages = leave_one_out(returns, self.settings.responses)
        return advantages[:, None] * mask, returns[:, None] * mask

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """L_i = -min(rho_i A_i, clip(rho_i, 1 - eps, 1 + eps) A_i), a mean over responses."""
        mask = part.response_mask
        losses, ratio = sequence_surrogate(
            scatter_to_mask(logprobs, mask),
            part.old_logprobs,
            # every response has a first token
            part.advantages[:, 0],
            mask,
            self.settings.surrogate_clip,
        )
        self.tally_ratio(ratio, step)
        step.tally.add(policy_loss=losses)
        # each token bears its response's loss: the mean over tokens is then that over responses
        of_tokens = losses[:, None].expand_as(mask)[mask]
        return of_tokens * response_weights(mask, self.mean_length(step))
