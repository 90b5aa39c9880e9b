"""RTO, reinforced token optimisation (arXiv 2404.18922): PPO-max with a DPO model's reward at each token.

    r_t = beta_1 log(pi_dpo / pi_ref) - beta_2 log(pi / pi_ref),  + beta_3 score at the last token

beta_1 and beta_3 are in `ppo.rto`, beta_2 is `ppo.kl.coefficient`. No new loss: what a DPO model
prefers is paid where it is said, and not at the end alone.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf.algorithms.base import Context, Inputs
from rlhf.algorithms.on_policy import TokenRewards
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.models.backbone import scatter_to_mask, target_tokens, token_logprobs
from rlhf.models.dpo import load_dpo_model
from rlhf.ppo.rto import dpo_reward, return_correction
from rlhf.rollout.records import Rollout, Scores
from rlhf.settings import Settings

DPO = "dpo"


class Rto(PpoMax):
    """PPO-max in all but the token rewards."""

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        return replace(inputs, models=(*inputs.models, "dpo"))

    def load_models(self, context: Context) -> None:
        """PPO-max's, and the DPO model, which must have had the same reference; raises ModelError."""
        # before the large ones: a model that does not fit is refused at once
        workspace = context.workspace
        sft = workspace.model("sft")
        dpo = load_dpo_model(workspace.model("dpo"), sft, self.engine.dtype)
        super().load_models(context)
        self.models.freeze(DPO, dpo)

    def token_rewards(self, rollout: Rollout, scores: Scores) -> TokenRewards:
        """PPO-max's sources, the score weighed, and the DPO reward of each token."""
        section, mask = self.settings.rto, rollout.response_mask
        assert section is not None
        rewards = super().token_rewards(rollout, scores)
        sources = dict(rewards.sources)
        sources["final_score"] = section.score_coefficient * sources["final_score"]
        sources["dpo_reward"] = dpo_reward(
            self.dpo_logprobs(rollout),
            scores.reference_logprobs,
            mask,
            section.coefficient,
            section.clamp,
        )
        if section.shaping_only:
            sources["return_correction"] = return_correction(sources["dpo_reward"], mask)
        return TokenRewards(sources, rewards.final, rewards.kl)

    @torch.no_grad()
    def dpo_logprobs(self, rollout: Rollout) -> Tensor:
        """log pi_dpo of each response token, [B, R], in the micro-batches of the other models."""
        parts = rollout.batch.micro_batches(self.settings.micro_batch)
        logprobs = [token_logprobs(self.logits(DPO, part), target_tokens(part)) for part in parts]
        return scatter_to_mask(torch.cat(logprobs), rollout.response_mask)
