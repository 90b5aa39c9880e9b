"""What on-policy algorithms share: one rollout an iteration, scored, turned into targets, learnt from.

    rollout -> scores of all models -> token rewards -> advantages and returns -> policy, critic

A member states what tokens are paid (`token_rewards`) and how the policy learns (`policy_loss`); it
may state `targets`, GAE unless it does.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import (
    POLICY,
    Context,
    Inputs,
    Sources,
    Step,
    Update,
    Updates,
    Validation,
)
from rlhf.algorithms.metrics import rollout_metrics, signals_of
from rlhf.batches.padding import TokenBatch
from rlhf.common.address import Address
from rlhf.engine import Loss
from rlhf.models.backbone import entropies, scatter_to_mask, target_tokens, token_logprobs
from rlhf.models.heads import ScalarModel, load_scalar_model, new_scalar_model
from rlhf.models.roles import Models
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.advantages import gae, whiten
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.losses import value_loss
from rlhf.ppo.moments import Moments, merge
from rlhf.ppo.rewards import clip, normalise, scale
from rlhf.rewards.base import RewardContext, make_rewards
from rlhf.rollout.records import Experience, Rollout, Scores
from rlhf.settings import Settings

CRITIC, REFERENCE = "critic", "reference"
# by which the best policy is chosen where the penalty is off: the paper's
_KL_COEFFICIENT = 0.05


@dataclass(frozen=True)
class TokenRewards:
    """What the policy is paid, a sum of sources; [B, R] and 0 outside the response but for `final`.

    sources: by name; each one's mean over responses is a metric, `token_reward_<name>`
    final: [B] the score of each response after reparameterisation
    kl: the estimate of the divergence from the reference
    """

    sources: Mapping[str, Tensor]
    final: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """What each token is paid, [B, R]: the sources added in their order."""
        first, *others = self.sources.values()
        return sum(others, first)


class OnPolicy(ABC):
    """Policy and critic learn; reference and rewards are frozen."""

    curves: ClassVar[tuple[str, ...]] = (
        "reward",
        "kl",
        "response_length",
        "perplexity",
        "entropy",
        "finished",
        "explained_variance",
        "value_loss",
    )
    peaks: ClassVar[tuple[str, ...]] = ()

    # -- what a member states ----------------------------------------------------------------------

    @abstractmethod
    def token_rewards(self, rollout: Rollout, scores: Scores) -> TokenRewards:
        """What each response token is paid, by source."""

    def targets(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns from token rewards and values, all [B, R]: detail 10 (eq. 9)."""
        return gae(rewards, values, mask, self.settings.gae.gamma, self.settings.gae.lam)

    @abstractmethod
    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """The loss of each response token of a micro-batch, [N], from logits [N, V] and log p [N]."""

    def further_losses(
        self, iteration: int, sources: Sources, step: Step[Experience]
    ) -> list[Loss]:
        """Losses of the policy on other data, added to those of the rollout: none, unless overridden."""
        return []

    # -- models ------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        """What its models, its critic's start and its rewards are read from."""
        ppo = settings.ppo
        rewards = [Address.parse(text) for text in ppo.rewards]
        scoring = [reward.detail for reward in rewards if reward.kind == "model"]
        models = dict.fromkeys(("sft", ppo.critic.initial, *scoring, ppo.initial))
        return Inputs(tables=("prompts",), models=tuple(models))

    def __init__(self, context: Context) -> None:
        self.engine = context.engine
        self.settings = context.settings.ppo
        self._history = Moments()
        self.warmup_iterations = self.settings.critic.pretraining_iterations
        self.models = self._load_models(context)
        rewards = RewardContext(context.settings, context.workspace, self.models, context.tokenizer)
        self.rewards = make_rewards(rewards)
        self.models.share_trunk()

    def _load_models(self, context: Context) -> Models:
        ppo, workspace = self.settings, context.workspace
        models = Models(self.engine, ppo.trainable_layers)
        policy = load_causal_lm(workspace.model(ppo.initial))
        critic = self._initial_critic(context)

        learning = self.optimizer_steps(ppo.iterations, ppo.epochs)
        warmup = self.optimizer_steps(self.warmup_iterations, ppo.critic.pretraining_epochs)
        models.train(POLICY, policy, ppo.optimizer, learning)
        models.train(CRITIC, critic, ppo.critic.optimizer, learning + warmup)
        models.freeze(REFERENCE, load_causal_lm(workspace.model("sft")))
        return models

    def _initial_critic(self, context: Context) -> ScalarModel:
        """Detail 8: from the reward model, or with a fresh head from the SFT model."""
        if self.settings.critic.initial == "sft":
            directory = context.workspace.model("sft")
            return new_scalar_model(directory, context.settings.seed, "critic")
        # rescaled rewards are of about unit scale, and so should be its first values
        transform = self.settings.reward
        unit_scale = transform.normalise is not None or transform.scale is not None
        return load_scalar_model(context.workspace.model("reward"), unit_scale=unit_scale)

    def optimizer_steps(self, iterations: int, epochs: int) -> int:
        """Of one model in so many iterations, each of so many epochs."""
        return iterations * epochs * (self.settings.rollouts // self.settings.mini_batch)

    # -- what members choose from ------------------------------------------------------------------

    def reparameterised(self, scores: Tensor) -> Tensor:
        """Details 4 and 5: scores [B] enter the history, are rescaled by it, and clipped."""
        transform = self.settings.reward
        self._history = merge(self._history, scores, self.engine.all_sum)
        if transform.normalise == "running":
            scores = normalise(scores, self._history)
        elif transform.scale == "running":
            scores = scale(scores, self._history)
        return clip(scores, transform.clip)

    def with_transformed_advantages(self, batch: Experience) -> Experience:
        """Detail 6, over the mini-batch as a whole, whatever its micro-batches."""
        transform = self.settings.advantage
        if transform is None:
            return batch
        advantages = batch.advantages
        if transform.normalise == "mini-batch":
            advantages = whiten(advantages, batch.response_mask, self.engine.all_sum)
        return replace(batch, advantages=clip(advantages, transform.clip))

    # -- an iteration ------------------------------------------------------------------------------

    def updates(self, sources: Sources, iteration: int) -> Updates:
        # 1. responses of the policy as it is, and what all models say of them
        rollout = self.with_trunk_states(sources.rollouts(POLICY))
        scores = self.score(rollout)

        # 2. targets
        rewards = self.token_rewards(rollout, scores)
        mask = rollout.response_mask
        advantages, returns = self.targets(rewards.total, scores.values, mask)
        experience = Experience(
            batch=rollout.batch,
            response_mask=mask,
            old_logprobs=scores.logprobs,
            reference_logprobs=scores.reference_logprobs,
            old_values=scores.values,
            advantages=advantages,
            returns=returns,
        )
        metrics = rollout_metrics(rollout, scores, rewards, experience, self.engine.all_sum)
        signals = signals_of(rollout, scores, rewards.kl, self.engine.all_sum)

        # 3. the policy learns, then the critic; before iteration 0 the critic alone
        size = self.settings.mini_batch // self.engine.world_size
        mini_batches = experience.split(size)
        if iteration < 0:
            epochs = self.settings.critic.pretraining_epochs
            # pre-training has far to go: values are not clipped
            losses = partial(self._critic_losses, None)
            yield Update((CRITIC,), mini_batches, losses, epochs, metrics, signals)
            return

        shown = yield Update(
            roles=(POLICY,),
            mini_batches=mini_batches,
            losses=partial(self._policy_losses, iteration, sources),
            epochs=self.settings.epochs,
            metrics={**metrics, **self.before_learning()},
            signals=signals,
            evidence=partial(self.evidence, iteration, sources),
        )
        self.after_learning(shown)
        losses = partial(self._critic_losses, self.settings.value_clip)
        yield Update((CRITIC,), mini_batches, losses, self.settings.epochs)

    def before_learning(self) -> Mapping[str, float]:
        """Metrics of the policy's update that are known before it: none, unless overridden."""
        return {}

    def after_learning(self, shown: Mapping[str, float]) -> None:
        """Take note of what the policy's update showed: of nothing, unless overridden."""
        return None

    def with_trunk_states(self, rollout: Rollout) -> Rollout:
        """The rollout with the states of the blocks that all models share, where they do."""
        batch = self.models.with_trunk_states(rollout.batch, self.settings.micro_batch)
        return replace(rollout, batch=batch)

    @torch.no_grad()
    def score(self, rollout: Rollout) -> Scores:
        """Ask all models, in the very micro-batches that the losses use: the first ratio is then 1 exactly."""
        columns = []
        parts = rollout.batch.micro_batches(self.settings.micro_batch)
        for part, counts in self._in_step(parts):
            logits = self.logits(POLICY, part)
            tokens = target_tokens(part)
            logprobs, part_entropies = token_logprobs(logits, tokens), entropies(logits)
            # two of these at once would be the peak of memory
            del logits
            reference = token_logprobs(self.logits(REFERENCE, part), tokens)
            values = self.models.values(CRITIC, part)
            if counts:
                columns.append(torch.stack([logprobs, reference, values, part_entropies]))

        rows = torch.cat(columns, dim=1)
        mask = rollout.response_mask
        logprobs, reference, values, all_entropies = (scatter_to_mask(row, mask) for row in rows)
        return Scores(
            scores=self.rewards.scores(rollout),
            logprobs=logprobs,
            reference_logprobs=reference,
            values=values,
            entropies=all_entropies,
        )

    def _in_step(self, parts: list[TokenBatch]) -> list[tuple[TokenBatch, bool]]:
        """Micro-batches and whether they count: the first stands in until every process has as many.

        Each forward of policy and critic is a meeting of all processes under ZeRO-3, and the shares
        of validation prompts may differ by one.
        """
        most = max(self.engine.all_gather([len(parts)]))
        missing = most - len(parts)
        return [(part, True) for part in parts] + [(parts[0], False)] * missing

    def logits(self, role: str, batch: TokenBatch) -> Tensor:
        """Logits that predict each target token, [N, V], at the temperature that was sampled."""
        return self.models.target_logits(role, batch, self.settings.sampling.temperature)

    # -- losses ------------------------------------------------------------------------------------

    def _policy_losses(
        self, iteration: int, sources: Sources, step: Step[Experience]
    ) -> list[Loss]:
        count = self._tokens_of(step.batch)
        parts = self.with_transformed_advantages(step.batch).split(self.settings.micro_batch)
        losses: list[Loss] = [partial(self._policy_part, part, count, step) for part in parts]
        return losses + self.further_losses(iteration, sources, step)

    def _policy_part(self, part: Experience, count: float, step: Step[Experience]) -> Tensor:
        logits = self.logits(POLICY, part.batch)
        logprobs = token_logprobs(logits, target_tokens(part.batch))
        return self.policy_loss(part, logits, logprobs, step).sum() / count

    def _critic_losses(self, clip: float | None, step: Step[Experience]) -> list[Loss]:
        count = self._tokens_of(step.batch)
        parts = step.batch.split(self.settings.micro_batch)
        return [partial(self._critic_part, part, clip, count, step) for part in parts]

    def _critic_part(
        self, part: Experience, clip: float | None, count: float, step: Step[Experience]
    ) -> Tensor:
        mask = part.response_mask
        values = self.models.values(CRITIC, part.batch)
        losses, clipped = value_loss(values, part.old_values[mask], part.returns[mask], clip)
        step.tally.add(value_loss=losses, value_clip_fraction=clipped.float())
        return losses.sum() / count

    def _tokens_of(self, batch: Experience) -> float:
        """Response tokens of a mini-batch over all processes: what its losses are means over."""
        return float(self.engine.all_sum(batch.response_mask.sum().double()))

    def evidence(self, iteration: int, sources: Sources, step: Step[Experience]) -> dict[str, Any]:
        """What to keep of the policy's step when it is refused, fit for JSON."""
        return step.batch.evidence()

    # -- validation and state ----------------------------------------------------------------------

    def validate(self, rollout: Rollout) -> Validation:
        rollout = self.with_trunk_states(rollout)
        scores, mask = self.score(rollout), rollout.response_mask
        kl = kl_estimate(scores.logprobs, scores.reference_logprobs) * mask
        penalty = self.settings.kl.coefficient if self.settings.kl else _KL_COEFFICIENT
        return Validation(
            scores=scores.scores,
            objective=scores.scores / self.rewards.score_std - penalty * kl.sum(dim=1),
            metrics={
                "kl": kl[mask],
                "kl_sequence": kl.sum(dim=1),
                # nats a token of its own responses; step logs have always called it so
                "surprise": -scores.logprobs[mask],
                "entropy": scores.entropies[mask],
                "length": rollout.lengths.float(),
                "finished": rollout.finished.float(),
            },
            signals=signals_of(rollout, scores, kl, self.engine.all_sum),
        )

    def state(self) -> dict[str, Any]:
        return {"history": self._history.as_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._history = Moments(**state["history"])
