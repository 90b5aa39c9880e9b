"""AIHF (arXiv 2406.06874): a reward and a policy from demonstrations and pairs, in turns.

    policy answers the demonstrations' prompts -> the moving reward learns
    -> its history of scores begins anew -> PPO-max on this iteration's prompts, paid by it

Two rewards, of one origin (models/reward): role "moving_reward" goes on learning and pays the
policy; role "reward" stays as it lies, as in every algorithm: it gives `reward` in the step log, and
judges validations, which scores of a model that moves could not compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import Context, Inputs, Sources, Step, Update, Updates, Validation
from rlhf.algorithms.feedback import TABLES, Demonstrations, Feedback
from rlhf.algorithms.on_policy import TokenRewards
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.batches.comparisons import Comparisons, margins, ranked_right
from rlhf.common.errors import SettingsError
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.engine import Loss
from rlhf.models.heads import load_scalar_model
from rlhf.ppo.aihf import bradley_terry_loss, demonstration_loss
from rlhf.ppo.moments import Moments
from rlhf.rollout.records import Experience, Rollout, Scores
from rlhf.settings import Settings
from rlhf.settings.neighbours import AihfSettings

MOVING_REWARD = "moving_reward"


@dataclass(frozen=True)
class RewardBatch:
    """What a step of the moving reward learns from.

    demonstrations: each preferred to a fresh response of the policy; pairs: as people preferred
    """

    demonstrations: Comparisons
    pairs: Comparisons

    def evidence(self) -> dict[str, Any]:
        """The tokens, for the record of a refused step."""
        parts = {"demonstrations": self.demonstrations, "pairs": self.pairs}
        return {name: part.batch.input_ids.tolist() for name, part in parts.items()}


@dataclass(frozen=True)
class MovingRewards(TokenRewards):
    """moving: [B] what the moving reward says of each response, as it is."""

    moving: Tensor


class Aihf(PpoMax):
    """PPO-max against a reward that learns from demonstrations and pairs before each of its turns."""

    curves: ClassVar[tuple[str, ...]] = (
        *PpoMax.curves,
        MOVING_REWARD,
        "demonstration_margin",
        "pair_accuracy",
    )

    # -- models ------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        models = dict.fromkeys((*inputs.models, "reward"))
        return replace(inputs, tables=(*inputs.tables, *TABLES), models=tuple(models))

    def __init__(self, context: Context) -> None:
        self.aihf = aihf_of(context.settings)
        self.feedback = Feedback(context)
        super().__init__(context)
        self.held_out = self.feedback.held_out_pairs(self.settings.validation_prompts)

    def load_models(self, context: Context) -> None:
        super().load_models(context)
        steps = self.settings.iterations * self.aihf.reward_epochs
        model = load_scalar_model(context.workspace.model("reward"), self.engine.dtype)
        self.models.train(MOVING_REWARD, model, self.aihf.optimizer, steps)

    # -- an iteration ------------------------------------------------------------------------------

    def updates(self, sources: Sources, iteration: int) -> Updates:
        """The reward learns, then policy and critic as in PPO-max; before iteration 0 the critic alone."""
        if iteration >= 0:
            yield from self._reward_phase(sources, iteration)
        yield from super().updates(sources, iteration)

    def _reward_phase(self, sources: Sources, iteration: int) -> Updates:
        # 1. demonstrations, and what the policy answers in their place: stale answers would bias
        demonstrations = self.feedback.demonstrations(sources, iteration, self.aihf.demonstrations)
        samples = sources.responses_to(demonstrations.prompts)
        batch = RewardBatch(
            demonstrations=self.feedback.against(demonstrations, samples.responses),
            pairs=self.feedback.pairs(sources, iteration, self.aihf.pairs),
        )

        # 2. the reward learns from them all at once
        yield Update(
            roles=(MOVING_REWARD,),
            mini_batches=[batch],
            losses=self._reward_losses,
            epochs=self.aihf.reward_epochs,
            metrics=self._described_feedback(demonstrations, samples, batch),
        )

        # 3. what the model said before says nothing of the scores to come
        self._history = Moments()

    def _described_feedback(
        self, demonstrations: Demonstrations, samples: Rollout, batch: RewardBatch
    ) -> Mapping[str, Value]:
        """What could tell a demonstration from a sample by its style alone."""
        tally = Tally()
        tally.add(
            **demonstrations.columns(self.engine.device),
            demonstration_identical=1 - batch.demonstrations.weights,
            sample_length=samples.lengths.float(),
            sample_finished=samples.finished.float(),
        )
        return dict(tally.means(self.engine.all_sum))

    # -- the moving reward -------------------------------------------------------------------------

    def _reward_losses(self, step: Step[RewardBatch]) -> list[Loss]:
        """L = w_d mean over demonstrations + w_p mean over pairs."""
        demonstrations = step.batch.demonstrations.split(self.feedback.comparisons_at_once)
        pairs = step.batch.pairs.split(self.feedback.comparisons_at_once)
        return [
            *(partial(self._demonstration_part, part, step) for part in demonstrations),
            *(partial(self._pair_part, part, step) for part in pairs),
        ]

    def _demonstration_part(self, part: Comparisons, step: Step[RewardBatch]) -> Tensor:
        above = self._margins(part)
        if self.aihf.form == "linear":
            assert self.aihf.beta is not None
            losses = part.weights * demonstration_loss(above, self.aihf.beta)
        else:
            losses = part.weights * bradley_terry_loss(above)
        step.tally.add(
            demonstration_loss=losses,
            demonstration_margin=above,
            demonstration_accuracy=ranked_right(above),
        )
        # the count is that of all processes: micro-batches and processes only add up
        return self.aihf.demonstration_weight * losses.sum() / self.aihf.demonstrations

    def _pair_part(self, part: Comparisons, step: Step[RewardBatch]) -> Tensor:
        above = self._margins(part)
        losses = part.weights * bradley_terry_loss(above)
        step.tally.add(pair_loss=losses, pair_margin=above, pair_accuracy=ranked_right(above))
        return self.aihf.pair_weight * losses.sum() / self.aihf.pairs

    def _margins(self, part: Comparisons) -> Tensor:
        """R(preferred) - R(other), [C]; exactly 0 where they are the same."""
        return part.weights * margins(self.models.scores(MOVING_REWARD, part.batch))

    @torch.no_grad()
    def validate(self, rollout: Rollout) -> Validation:
        """PPO-max's; and whether the moving reward ranks pairs right that it does not learn from."""
        validation = super().validate(rollout)
        above = torch.cat(
            [self._margins(part) for part in self.held_out.split(self.feedback.comparisons_at_once)]
        )
        right = ranked_right(above)[self.held_out.weights > 0]
        return replace(validation, metrics={**validation.metrics, "pair_accuracy": right})

    # -- what it pays ------------------------------------------------------------------------------

    def token_rewards(self, rollout: Rollout, scores: Scores) -> MovingRewards:
        """PPO-max's, from the scores of the moving reward."""
        moving = self._moving_scores(rollout)
        paid = super().token_rewards(rollout, replace(scores, scores=moving))
        return MovingRewards(paid.sources, paid.final, paid.kl, moving)

    @torch.no_grad()
    def _moving_scores(self, rollout: Rollout) -> Tensor:
        parts = rollout.batch.micro_batches(self.settings.micro_batch)
        return torch.cat([self.models.scores(MOVING_REWARD, part) for part in parts])

    def described(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards, experience: Experience
    ) -> dict[str, Value]:
        assert isinstance(rewards, MovingRewards)
        tally = Tally()
        tally.add(**{MOVING_REWARD: rewards.moving})
        metrics = super().described(rollout, scores, rewards, experience)
        return metrics | tally.means(self.engine.all_sum)


def aihf_of(settings: Settings) -> AihfSettings:
    """The section `ppo.aihf`; raises SettingsError where it is off."""
    if settings.ppo.aihf is None:
        raise SettingsError(f"ppo.aihf: algorithm {settings.ppo.algorithm} needs it")
    return settings.ppo.aihf
