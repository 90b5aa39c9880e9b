"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): PPO's clip and token rewards without its critic.

    A_t = r - eta sum_{s >= t} KL_s     the reward to go, undiscounted
    whitened over the tokens of the whole rollout, of all processes

One response a prompt is enough: what a response is compared with is all others. With
`ppo.reinforce_pp.baseline: group` (REINFORCE++-baseline) the mean score of the responses to its
prompt is taken off first. Its name is `reinforce-pp`, since names of DVC's stages have no `+`.
"""

from dataclasses import replace

from torch import Tensor

from rlhf.algorithms.base import Context, Step
from rlhf.algorithms.critic_free import CriticFree
from rlhf.algorithms.on_policy import TokenRewards
from rlhf.ppo.advantages import whiten
from rlhf.ppo.groups import group_mean, reward_to_go
from rlhf.ppo.losses import surrogate
from rlhf.ppo.rewards import final_score
from rlhf.rollout.records import Experience, Rollout, Scores


class ReinforcePlusPlus(CriticFree):
    """A = whitened reward to go; L = PPO's clipped surrogate."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        section = self.settings.reinforce_pp
        self._has_baseline = section is not None and section.baseline == "group"

    def token_rewards(self, rollout: Rollout, scores: Scores) -> TokenRewards:
        """The score at the last token and the KL penalty; the group's mean score off, if asked for."""
        rewards = super().token_rewards(rollout, scores)
        if not self._has_baseline:
            return rewards
        baseline = group_mean(rewards.final, self.settings.responses)
        taken_off = final_score(-baseline, rollout.response_mask)
        return replace(rewards, sources={**rewards.sources, "group_baseline": taken_off})

    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        """Whitened over all tokens of the iteration, not over a mini-batch."""
        mask = rollout.response_mask
        returns = reward_to_go(rewards.total, mask)
        return whiten(returns, mask, self.engine.all_sum), returns

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """L_t = -min(rho_t A_t, clip(rho_t, 1 - eps, 1 + eps) A_t)."""
        mask = part.response_mask
        losses, ratio = surrogate(
            logprobs,
            part.old_logprobs[mask],
            part.advantages[mask],
            self.settings.surrogate_clip,
        )
        self.tally_ratio(ratio, step)
        step.tally.add(policy_loss=losses)
        return losses
