"""What on-policy algorithms with a critic share: values, generalised advantages, the critic's learning.

... -> advantages and returns (GAE) -> policy, critic
"""

from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from rlhf.algorithms.base import Context, Inputs, Sources, Step, Update, Updates
from rlhf.algorithms.metrics import critic_metrics
from rlhf.algorithms.on_policy import LearningData, OnPolicy, TokenRewards
from rlhf.batches.padding import TokenBatch
from rlhf.common.errors import SettingsError
from rlhf.common.metrics import Value
from rlhf.engine import Loss
from rlhf.models.heads import ScalarModel, load_scalar_model, new_scalar_model
from rlhf.ppo.advantages import gae
from rlhf.ppo.losses import value_loss
from rlhf.rollout.records import Experience, Rollout, Scores
from rlhf.settings import Settings
from rlhf.settings.policy import Critic, Gae

CRITIC = "critic"


class ActorCritic(OnPolicy):
    """Policy and critic learn; reference and rewards are frozen."""

    curves: ClassVar[tuple[str, ...]] = (*OnPolicy.curves, "explained_variance", "value_loss")

    # -- models ------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        models = dict.fromkeys((*inputs.models, critic_of(settings).initial))
        return replace(inputs, models=tuple(models))

    def __init__(self, context: Context) -> None:
        self.critic = critic_of(context.settings)
        self.gae = gae_of(context.settings)
        self.warmup_iterations = self.critic.pretraining_iterations
        super().__init__(context)

    def load_models(self, context: Context) -> None:
        super().load_models(context)
        ppo, critic = self.settings, self.critic
        learning = self.optimizer_steps(ppo.iterations, ppo.epochs)
        warmup = self.optimizer_steps(self.warmup_iterations, critic.pretraining_epochs)
        model = self._initial_critic(context)
        self.models.train(CRITIC, model, critic.optimizer, learning + warmup)

    def _initial_critic(self, context: Context) -> ScalarModel:
        """Detail 8: from the reward model, or with a fresh head from the SFT model.

        A reward model has learnt what it says of whole answers alone. `zero_head` leaves out what it
        says of the tokens before the end.
        """
        dtype = self.engine.dtype
        if self.critic.initial == "sft":
            directory = context.workspace.model("sft")
            model = new_scalar_model(directory, context.settings.seed, "critic", dtype=dtype)
        else:
            # rescaled rewards are of about unit scale, and so should be its first values
            transform = self.settings.reward
            unit_scale = transform.normalise is not None or transform.scale is not None
            directory = context.workspace.model("reward")
            model = load_scalar_model(directory, dtype, unit_scale=unit_scale)
        if self.critic.zero_head:
            model.head.set_to_zero()
        return model

    # -- an iteration ------------------------------------------------------------------------------

    def values(self, part: TokenBatch) -> Tensor:
        """The critic's value of the state before each response token, [N]."""
        return self.models.values(CRITIC, part)

    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        """Detail 10: generalised advantage estimation (eq. 9)."""
        mask = rollout.response_mask
        return gae(rewards.total, scores.values, mask, self.gae.gamma, self.gae.lam)

    def described(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards, experience: Experience
    ) -> dict[str, Value]:
        metrics = super().described(rollout, scores, rewards, experience)
        return metrics | critic_metrics(experience, self.engine.all_sum)

    def learning(self, sources: Sources, iteration: int, data: LearningData) -> Updates:
        """The policy learns, then the critic; before iteration 0 the critic alone."""
        if iteration < 0:
            epochs = self.critic.pretraining_epochs
            # pre-training has far to go: values are not clipped
            losses = partial(self._critic_losses, None)
            yield Update((CRITIC,), data.mini_batches, losses, epochs, data.metrics, data.signals)
            return
        yield from super().learning(sources, iteration, data)
        losses = partial(self._critic_losses, self.settings.value_clip)
        yield Update((CRITIC,), data.mini_batches, losses, self.settings.epochs)

    # -- losses ------------------------------------------------------------------------------------

    def _critic_losses(self, clip: float | None, step: Step[Experience]) -> list[Loss]:
        count = self.tokens_of(step.batch)
        parts = step.batch.split(self.settings.micro_batch)
        return [partial(self._critic_part, part, clip, count, step) for part in parts]

    def _critic_part(
        self, part: Experience, clip: float | None, count: float, step: Step[Experience]
    ) -> Tensor:
        mask = part.response_mask
        values = self.values(part.batch)
        losses, clipped = value_loss(values, part.old_values[mask], part.returns[mask], clip)
        step.tally.add(value_loss=losses, value_clip_fraction=clipped.float())
        return losses.sum() / count


def critic_of(settings: Settings) -> Critic:
    """The section `ppo.critic`; raises SettingsError where it is off."""
    if settings.ppo.critic is None:
        raise SettingsError(f"ppo.critic: algorithm {settings.ppo.algorithm} needs a critic")
    return settings.ppo.critic


def gae_of(settings: Settings) -> Gae:
    """The section `ppo.gae`; raises SettingsError where it is off."""
    if settings.ppo.gae is None:
        raise SettingsError(f"ppo.gae: algorithm {settings.ppo.algorithm} needs it")
    return settings.ppo.gae
