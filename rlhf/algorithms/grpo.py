"""GRPO, group relative policy optimisation (DeepSeekMath, arXiv 2402.03300).

PPO's clipped surrogate, with the responses to a prompt in place of the critic: an advantage is a
response's distance from the mean score of its group, in standard deviations. The KL divergence from
the reference is in the loss, by k3, and not in the reward.
"""

from torch import Tensor

from rlhf.algorithms.base import Context, Step
from rlhf.algorithms.critic_free import CriticFree
from rlhf.algorithms.on_policy import TokenRewards
from rlhf.common.errors import SettingsError
from rlhf.ppo.groups import group_advantages, response_weights
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.losses import surrogate
from rlhf.rollout.records import Experience, Rollout, Scores


class Grpo(CriticFree):
    """A_i = (r_i - mean r) / std r of the group; L = surrogate + beta KL(pi || pi_ref)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if self.settings.grpo is None:
            raise SettingsError("ppo.grpo: algorithm grpo needs it")
        self.grpo = self.settings.grpo

    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        """The same advantage, and the same return, at every token of a response."""
        mask = rollout.response_mask
        returns = rewards.total.sum(dim=1)
        advantages = group_advantages(
            returns, self.settings.responses, self.grpo.scale, self.engine.all_sum
        )
        return advantages[:, None] * mask, returns[:, None] * mask

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """L_t = -min(rho_t A, clip(rho_t, 1 - eps, 1 + eps) A) + beta k3_t."""
        mask = part.response_mask
        losses, ratio = surrogate(
            logprobs,
            part.old_logprobs[mask],
            part.advantages[mask],
            self.settings.surrogate_clip,
        )
        divergence = kl_estimate(logprobs, part.reference_logprobs[mask], "k3")
        if self.grpo.loss == "sequence":
            weights = response_weights(mask, self.mean_length(step))
            losses, divergence = weights * losses, weights * divergence
        self.tally_ratio(ratio, step)
        step.tally.add(policy_loss=losses, kl_loss=divergence)
        return losses + self.grpo.kl_coefficient * divergence
