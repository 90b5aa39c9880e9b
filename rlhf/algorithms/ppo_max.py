"""PPO-max (section 5 of the paper): the stable composition of the twelve details.

     1 KL penalty per token           on_policy           7 value clipping            actor_critic
     2 importance ratio               here             8 the critic's start        actor_critic
     3 entropy bonus                  here             9 the policy's start        scored_policy
     4 reward scaling                 on_policy       10 advantage estimation      actor_critic
     5 reward normalisation, clip     on_policy       11 clipped surrogate         here
     6 advantage normalisation        on_policy       12 gradient clipping         engine

Which of them are on, and how strong, is for `params.yaml` to say; the formulas are in `rlhf/ppo`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlhf.algorithms.actor_critic import ActorCritic
from rlhf.algorithms.base import POLICY, Context, Inputs, Sources, Step
from rlhf.batches.padding import TokenBatch
from rlhf.engine import Loss
from rlhf.models.backbone import entropies, target_tokens, token_logprobs
from rlhf.ppo.losses import adapted, entropy_loss, policy_kl, surrogate
from rlhf.rollout.records import Experience
from rlhf.settings import Settings


class PpoMax(ActorCritic):
    """PPO with the details of the paper, each of which can be switched off."""

    peaks = ("first_ratio_deviation",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._penalty = self.settings.penalty.coefficient if self.settings.penalty else 0.0

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """L = surrogate + beta KL(pi_old || pi) + c entropy loss; what is off is 0 (eq. 14, 15)."""
        mask, tally, settings = part.response_mask, step.tally, self.settings

        # details 2 and 11
        from_policy = settings.importance == "policy"
        old = part.old_logprobs if from_policy else part.reference_logprobs
        advantages = part.advantages[mask]
        losses, ratio = surrogate(logprobs, old[mask], advantages, settings.surrogate_clip)
        tally.add(policy_loss=losses, ratio_mean=ratio)

        # the variant with a penalty in place of the clip
        if settings.penalty is not None:
            divergence = policy_kl(ratio)
            tally.add(policy_kl=divergence)
            losses = losses + self._penalty * divergence

        # detail 3
        if settings.entropy is not None:
            bonus = entropy_loss(entropies(logits), settings.entropy.target)
            tally.add(entropy_loss=bonus)
            losses = losses + settings.entropy.coefficient * bonus

        deviation = (ratio.detach() - 1).abs()
        if settings.surrogate_clip is not None:
            tally.add(clip_fraction=(deviation > settings.surrogate_clip).float())
        if from_policy:
            tally.peak(ratio_max_deviation=float(deviation.max()))
            # before anything was learnt the ratio is 1: what is left is rounding
            if step.number == 0:
                tally.peak(first_ratio_deviation=float(deviation.max()))
        return losses

    # -- ptx ---------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        text = ("pretrain",) if settings.ppo.ptx else ()
        return replace(inputs, tables=(*inputs.tables, *text))

    def further_losses(
        self, iteration: int, sources: Sources, step: Step[Experience]
    ) -> list[Loss]:
        """The language-modelling loss on plain text (eq. 17)."""
        text = self._plain_text(iteration, sources, step)
        return [] if text is None else [partial(self._ptx_loss, text, step)]

    def _ptx_loss(self, text: TokenBatch, step: Step[Experience]) -> Tensor:
        """gamma E[-log pi(x)], a mean over the tokens of all processes."""
        assert self.settings.ptx is not None
        # of the model itself, not of the tempered one that sampled
        logits = self.models.target_logits(POLICY, text)
        losses = -token_logprobs(logits, target_tokens(text))
        step.tally.add(ptx_loss=losses)
        own = torch.tensor(float(losses.numel()), device=losses.device)
        count = float(self.engine.all_sum(own))
        return self.settings.ptx.coefficient * losses.sum() / count

    def _plain_text(
        self, iteration: int, sources: Sources, step: Step[Experience]
    ) -> TokenBatch | None:
        ptx = self.settings.ptx
        if ptx is None:
            return None
        before = iteration * self.optimizer_steps(1, self.settings.epochs)
        return sources.plain_text(ptx.windows, before + step.number)

    def evidence(self, iteration: int, sources: Sources, step: Step[Experience]) -> dict[str, Any]:
        text = self._plain_text(iteration, sources, step)
        plain = None if text is None else text.input_ids.tolist()
        return {"plain_text": plain, **super().evidence(iteration, sources, step)}

    # -- state -------------------------------------------------------------------------------------

    def before_learning(self) -> Mapping[str, float]:
        return {"penalty_coefficient": self._penalty} if self.settings.penalty else {}

    def after_learning(self, shown: Mapping[str, float]) -> None:
        """Adapt the penalty's weight to the divergence of this iteration's updates (eq. 14)."""
        penalty = self.settings.penalty
        if penalty is not None and penalty.target is not None:
            self._penalty = adapted(self._penalty, shown["policy_kl"], penalty.target)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "penalty": self._penalty}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._penalty = state["penalty"]
