"""APA, advantage-induced policy alignment (arXiv 2306.02231): regression towards pi_ref exp(A / lambda).

No ratio, no clip, and no KL penalty in the reward (`ppo.kl` is off): the loss itself holds the policy
to the reference. lambda is in the units of the advantages, which `ppo.advantage` whitens under the
response mask; the authors' code whitens over padding too, and takes 0.1.

`ppo.apa.loss: awr` is the control of the paper: the same rollouts, critic and advantages, learnt from
by advantage-weighted regression. It wants lambda 1.
"""

from torch import Tensor

from rlhf.algorithms.actor_critic import ActorCritic
from rlhf.algorithms.base import Step
from rlhf.ppo.apa import apa_loss, awr_loss
from rlhf.rollout.records import Experience


class Apa(ActorCritic):
    """PPO-max's rollouts, critic and advantages, with the squared loss of APA."""

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """L = (log pi - log pi_ref - A / lambda)^2, or with awr -exp(A / lambda) log pi."""
        apa = self.settings.apa
        assert apa is not None
        mask = part.response_mask
        reference, advantages = part.reference_logprobs[mask], part.advantages[mask]
        if apa.loss == "awr":
            losses = awr_loss(logprobs, advantages, apa.lam)
        else:
            losses = apa_loss(logprobs, reference, advantages, apa.lam)
        step.tally.add(policy_loss=losses)
        return losses
