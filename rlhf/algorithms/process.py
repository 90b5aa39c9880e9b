"""Process supervision: PPO-max whose reward is paid at the end of every step (Math-Shepherd, arXiv 2312.08935).

A frozen process reward model, models/process, gives the probability that each step is right. Section
3.5 of the paper pays that and nothing else; the score at the last token beside it
(`score_coefficient`) and the rule `difference` are our own.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import Context, Inputs, Validation
from rlhf.algorithms.on_policy import TokenRewards
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.ppo.steps import step_rewards
from rlhf.rewards.step_scores import ROLE, StepProbabilities, StepScorer
from rlhf.rollout.records import Experience, Rollout, Scores
from rlhf.settings import Settings
from rlhf.settings.neighbours import ProcessSettings


@dataclass(frozen=True)
class StepTokenRewards(TokenRewards):
    """What the policy is paid, and the step scores behind it."""

    steps: StepProbabilities


class ProcessSupervision(PpoMax):
    """PPO-max with the source `step_scores` in place of the final score, or beside it."""

    curves: ClassVar[tuple[str, ...]] = (*PpoMax.curves, "steps", "step_probability")

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        return replace(inputs, models=(*inputs.models, ROLE))

    def load_models(self, context: Context) -> None:
        super().load_models(context)
        self.process = process_of(context.settings)
        directory = context.workspace.model(ROLE)
        micro_batch = self.settings.micro_batch
        self._scorer = StepScorer(self.models, directory, context.tokenizer, micro_batch)

    def token_rewards(self, rollout: Rollout, scores: Scores) -> StepTokenRewards:
        """r_t = step scores - eta KL_t, plus c_s times the reparameterised score at the last token."""
        rewards = super().token_rewards(rollout, scores)
        sources = dict(rewards.sources)

        # details 4 and 5 are of the final score alone: p is a probability already
        final = sources.pop("final_score")
        if self.process.score_coefficient > 0:
            sources["final_score"] = self.process.score_coefficient * final

        steps = self._scorer.read(rollout.batch, rollout.responses, rollout.response_mask)
        sources["step_scores"] = self._paid(steps, rollout)
        return StepTokenRewards(sources, rewards.final, rewards.kl, steps)

    def _paid(self, steps: StepProbabilities, rollout: Rollout) -> Tensor:
        mask, process = rollout.response_mask, self.process
        return step_rewards(
            steps.probabilities, steps.ends, mask, process.rule, process.coefficient
        )

    def described(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards, experience: Experience
    ) -> dict[str, Value]:
        """With the steps of a response that end, and what the model gives one of them."""
        metrics = super().described(rollout, scores, rewards, experience)
        assert isinstance(rewards, StepTokenRewards)
        tally = Tally()
        tally.add(
            steps=rewards.steps.ends.sum(dim=1).float(),
            total=rewards.steps.probabilities.sum(dim=1),
        )
        means = tally.means(self.engine.all_sum)
        # none of them may end
        mean = means["total"] / means["steps"] if means["steps"] else None
        return {**metrics, "steps": means["steps"], "step_probability": mean}

    @torch.no_grad()
    def validate(self, rollout: Rollout) -> Validation:
        """The objective is what is paid: step scores, c_s times the score in its unit, less the KL penalty."""
        validation = super().validate(rollout)
        rollout = self.with_trunk_states(rollout)
        steps = self._scorer.read(rollout.batch, rollout.responses, rollout.response_mask)
        paid = self._paid(steps, rollout).sum(dim=1)
        # the objective that is inherited has the score once
        rest = self.process.score_coefficient - 1
        objective = validation.objective + rest * validation.scores / self.rewards.score_std + paid
        metrics = {
            **validation.metrics,
            "steps": steps.ends.sum(dim=1).float(),
            "step_scores": paid,
            "step_min": steps.scores("min"),
        }
        return replace(validation, objective=objective, metrics=metrics)


def process_of(settings: Settings) -> ProcessSettings:
    """The section `ppo.process`, which the settings of this algorithm have."""
    assert settings.ppo.process is not None
    return settings.ppo.process
