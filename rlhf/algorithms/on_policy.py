"""What on-policy algorithms share: one rollout an iteration, scored, turned into targets, learnt from.

    rollout -> scores of all models -> token rewards -> advantages and returns -> policy

A member states what tokens are worth (`targets`), how the policy learns (`policy_loss`) and, where it
is not the score less a KL penalty, what they are paid (`token_rewards`). Those with a critic go on
from `actor_critic`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from rlhf.algorithms.base import POLICY, Context, Signals, Sources, Step, Update, Updates
from rlhf.algorithms.metrics import rollout_metrics, signals_of, weight_metrics
from rlhf.algorithms.scored_policy import ScoredPolicy
from rlhf.common.metrics import Value
from rlhf.engine import Loss
from rlhf.models.backbone import target_tokens, token_logprobs
from rlhf.ppo.advantages import whiten
from rlhf.ppo.importance import truncated_weights
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.moments import Moments, merge
from rlhf.ppo.rewards import clip, final_score, kl_penalty, normalise, scale
from rlhf.rollout.records import Experience, Rollout, Scores


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


@dataclass(frozen=True)
class LearningData:
    """A scored rollout as it is learnt from, with what is known before anything is learnt."""

    mini_batches: Sequence[Experience]
    metrics: Mapping[str, Value]
    signals: Signals


class OnPolicy(ScoredPolicy, ABC):
    """The policy learns from one response at a time; reference and rewards are frozen."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._history = Moments()
        # of the rewards that are normalised one by one
        self._source_histories: dict[str, Moments] = {}

    # -- what a member states ----------------------------------------------------------------------

    def token_rewards(self, rollout: Rollout, scores: Scores) -> TokenRewards:
        """r_t = -eta KL_t, plus the reparameterised score at the last token (eq. 3, 19).

        eta = 0 without `ppo.kl`; the divergence is then only watched.
        """
        mask = rollout.response_mask

        # details 4 and 5
        final = self.reparameterised(scores.scores)
        sources = {"final_score": final_score(final, mask)}

        # detail 1
        kl = self.settings.kl
        estimator = kl.estimator if kl else "k1"
        divergence = kl_estimate(scores.logprobs, scores.reference_logprobs, estimator) * mask
        if kl is not None:
            sources["kl_penalty"] = kl_penalty(divergence, mask, kl.coefficient)
        return TokenRewards(sources, final, divergence)

    @abstractmethod
    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns of each response token, [B, R]; rows of one prompt lie side by side."""

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

    def _with_source_histories(self, scores: Scores) -> Scores:
        """Rewards that are normalised one by one enter their histories, and the sum is that of these."""
        if all(source.normalise is None for source in self.settings.rewards):
            return scores
        total, self._source_histories = self.rewards.total_by_history(
            scores.sources, self._source_histories, self.engine.all_sum
        )
        return replace(scores, scores=total)

    def with_transformed_advantages(self, batch: Experience) -> Experience:
        """Detail 6, over the mini-batch as a whole, whatever its micro-batches."""
        transform = self.settings.advantage
        if transform is None:
            return batch
        advantages = batch.advantages
        if transform.normalise == "mini-batch":
            advantages = whiten(advantages, batch.response_mask, self.engine.all_sum)
        return replace(batch, advantages=clip(advantages, transform.clip))

    def sampler_weights(self, rollout: Rollout, scores: Scores) -> Tensor | None:
        """What the loss of each token is multiplied by, [B, R]; None without `ppo.sampling.importance_cap`."""
        cap = self.settings.sampling.importance_cap
        if cap is None:
            return None
        return truncated_weights(scores.logprobs, rollout.sampler_logprobs, cap)

    # -- an iteration ------------------------------------------------------------------------------

    def updates(self, sources: Sources, iteration: int) -> Updates:
        # 1. responses of the policy as it is, and what all models say of them
        rollout = self.with_trunk_states(sources.rollouts(POLICY, self.settings.responses))
        scores = self._with_source_histories(self.score(rollout))

        # 2. targets
        rewards = self.token_rewards(rollout, scores)
        advantages, returns = self.targets(rollout, scores, rewards)
        experience = Experience(
            batch=rollout.batch,
            response_mask=rollout.response_mask,
            old_logprobs=scores.logprobs,
            reference_logprobs=scores.reference_logprobs,
            old_values=scores.values,
            advantages=advantages,
            returns=returns,
            sampler_weights=self.sampler_weights(rollout, scores),
        )
        metrics = self.described(rollout, scores, rewards, experience)
        signals = signals_of(rollout, scores, rewards.kl, self.engine.all_sum)

        # 3. learn from them
        size = self.settings.mini_batch // self.engine.world_size
        data = LearningData(experience.split(size), metrics, signals)
        yield from self.learning(sources, iteration, data)

    def described(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards, experience: Experience
    ) -> dict[str, Value]:
        """The metrics of a scored rollout, means over all processes."""
        all_sum, cap = self.engine.all_sum, self.settings.sampling.importance_cap
        metrics = rollout_metrics(rollout, scores, rewards, experience, all_sum)
        return (
            metrics if cap is None else metrics | weight_metrics(rollout, experience, cap, all_sum)
        )

    def learning(self, sources: Sources, iteration: int, data: LearningData) -> Updates:
        """What learns from a scored rollout: the policy."""
        shown = yield Update(
            roles=(POLICY,),
            mini_batches=data.mini_batches,
            losses=partial(self._policy_losses, iteration, sources),
            epochs=self.settings.epochs,
            metrics={**data.metrics, **self.before_learning()},
            signals=data.signals,
            evidence=partial(self.evidence, iteration, sources),
        )
        self.after_learning(shown)

    def before_learning(self) -> Mapping[str, float]:
        """Metrics of the policy's update that are known before it: none, unless overridden."""
        return {}

    def after_learning(self, shown: Mapping[str, float]) -> None:
        """Take note of what the policy's update showed: of nothing, unless overridden."""
        return None

    # -- losses ------------------------------------------------------------------------------------

    def _policy_losses(
        self, iteration: int, sources: Sources, step: Step[Experience]
    ) -> list[Loss]:
        count = self.tokens_of(step.batch)
        parts = self.with_transformed_advantages(step.batch).split(self.settings.micro_batch)
        losses: list[Loss] = [partial(self._policy_part, part, count, step) for part in parts]
        return losses + self.further_losses(iteration, sources, step)

    def _policy_part(self, part: Experience, count: float, step: Step[Experience]) -> Tensor:
        logits = self.logits(POLICY, part.batch)
        logprobs = token_logprobs(logits, target_tokens(part.batch))
        losses = self.policy_loss(part, logits, logprobs, step)
        if part.sampler_weights is not None:
            losses = losses * part.sampler_weights[part.response_mask]
        return losses.sum() / count

    def tokens_of(self, batch: Experience) -> float:
        """Response tokens of a mini-batch over all processes: what its losses are means over."""
        return float(self.engine.all_sum(batch.response_mask.sum().double()))

    def evidence(self, iteration: int, sources: Sources, step: Step[Experience]) -> dict[str, Any]:
        """What to keep of the policy's step when it is refused, fit for JSON."""
        return step.batch.evidence()

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        by_source = {name: history.as_dict() for name, history in self._source_histories.items()}
        return {"history": self._history.as_dict(), "source_histories": by_source}

    def load_state(self, state: dict[str, Any]) -> None:
        self._history = Moments(**state["history"])
        self._source_histories = {
            name: Moments(**history) for name, history in state["source_histories"].items()
        }
