"""PPO-max (section 5): the stable composition of the twelve details."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.base import Context, Loss, Material
from rlhf.batches.padding import TokenBatch, pad_width
from rlhf.common.errors import TrainingError
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.engine import Trainer
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import (
    entropy,
    hidden_states,
    spread,
    target_logits,
    target_tokens,
    token_logprobs,
)
from rlhf.models.heads import at_last, load_scalar_model, new_scalar_model, score_spread
from rlhf.models.saving import load_causal_lm, train_only_top
from rlhf.models.trunk import lower_states, shares_trunk, upper_states
from rlhf.ppo.advantages import gae, whiten
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.losses import adapted, entropy_loss, policy_kl, surrogate, value_loss
from rlhf.ppo.moments import Moments, merge
from rlhf.ppo.rewards import clip, normalise, scale, token_rewards
from rlhf.rollout.records import Experience, Rollout, Scores

PAPERS_KL_COEFFICIENT = 0.05  # by which the best policy is chosen where the penalty is off


@dataclass(frozen=True)
class _Shaped:
    """Rewards after reparameterisation, [B], and per token, [B, R], with the KL estimate they hold."""

    scores: Tensor
    kl: Tensor
    tokens: Tensor


class PpoMax:
    """Policy, frozen reference, critic and frozen reward model."""

    consumes = frozenset({"rollouts", "pretrain"})

    def __init__(self, context: Context) -> None:
        self.engine, self.settings = context.engine, context.settings.ppo
        workspace, ppo = context.workspace, context.settings.ppo
        policy = load_causal_lm(workspace.model(ppo.initial))
        critic = (
            load_scalar_model(
                workspace.model("reward"),
                unit_scale=(ppo.reward.normalise or ppo.reward.scale) is not None,
            )
            if ppo.critic.initial == "reward"
            else new_scalar_model(workspace.model("sft"), context.settings.seed, "critic")
        )
        train_only_top(policy, ppo.trainable_layers)
        train_only_top(critic.lm, ppo.trainable_layers)
        self.warmup_iterations = ppo.critic.pretraining_iterations
        critic_updates = context.updates(ppo.iterations, ppo.epochs) + context.updates(
            self.warmup_iterations, ppo.critic.pretraining_epochs
        )
        self.trainers: Mapping[str, Trainer] = {
            "policy": self.engine.trainer(
                policy, ppo.optimizer, context.updates(ppo.iterations, ppo.epochs)
            ),
            "critic": self.engine.trainer(critic, ppo.critic.optimizer, critic_updates),
        }
        self._policy = policy
        self._critic = critic
        self._reference = self.engine.frozen(load_causal_lm(workspace.model("sft")))
        self._reward = self.engine.frozen(load_scalar_model(workspace.model("reward")))
        self._shared = self._trunk(ppo.trainable_layers)
        self._reward_spread = score_spread(workspace.model("reward"))
        self._history = Moments()
        self._penalty = ppo.penalty.coefficient if ppo.penalty else 0.0

    def _trunk(self, layers: int | None) -> int | None:
        """The number of top blocks above what all four models have in common and none of them trains."""
        if layers is None or not isinstance(
            self.engine, TorchEngine
        ):  # ZeRO keeps the weights in parts
            return None
        models = [self._policy, self._reference, self._critic.lm, self._reward.lm]
        return layers if shares_trunk(models, layers) else None

    def policy(self) -> PreTrainedModel:
        return self._policy

    def active(self, iteration: int) -> Mapping[str, int]:
        if iteration < 0:
            return {"critic": self.settings.critic.pretraining_epochs}
        return {"policy": self.settings.epochs, "critic": self.settings.epochs}

    def state(self) -> dict[str, Any]:
        return {"history": self._history.as_dict(), "penalty": self._penalty}

    def load_state(self, state: dict[str, Any]) -> None:
        self._history, self._penalty = Moments(**state["history"]), state["penalty"]

    def learnt(self, means: Mapping[str, float]) -> dict[str, Value]:
        """Adapt the penalty's weight to the divergence of this iteration's updates."""
        penalty = self.settings.penalty
        if penalty is None or "policy_kl" not in means:
            return {}
        used = self._penalty
        if penalty.target is not None:
            self._penalty = adapted(self._penalty, means["policy_kl"], penalty.target)
        return {"penalty_coefficient": used}

    # -- experience ---------------------------------------------------------------------------------------------

    def experience(self, material: Material) -> tuple[Experience, dict[str, Value]]:
        rollout = material.rollout
        if rollout is None:
            raise TrainingError("ppo-max learns from rollouts, and none were gathered")
        scores = self._scores(rollout)
        shaped = self._shape(scores, rollout.response_mask)
        mask, settings = rollout.response_mask, self.settings.gae
        advantages, returns = gae(shaped.tokens, scores.values, mask, settings.gamma, settings.lam)
        old = scores.logprobs if self.settings.importance == "policy" else scores.reference_logprobs
        experience = Experience(
            rollout.batch, mask, old, scores.values, advantages, returns, scores.below
        )
        return experience, self._describe(rollout, scores, shaped, experience)

    def look(self, rollout: Rollout) -> tuple[Tensor, Tally]:
        scores, mask = self._scores(rollout), rollout.response_mask
        kl = kl_estimate(scores.logprobs, scores.reference_logprobs) * mask
        coefficient = self.settings.kl.coefficient if self.settings.kl else PAPERS_KL_COEFFICIENT
        tally = Tally()
        tally.add(
            reward=scores.rewards,
            objective=scores.rewards / self._reward_spread - coefficient * kl.sum(dim=1),
            kl=kl[mask],
            kl_sequence=kl.sum(dim=1),
            surprise=-scores.logprobs[
                mask
            ],  # log-perplexity on its own responses, in nats per token
            entropy=scores.entropy[mask],
            length=rollout.lengths.float(),
            finished=rollout.finished.float(),
        )
        return scores.rewards, tally

    @torch.no_grad()
    def _scores(self, rollout: Rollout) -> Scores:
        """Ask all four models, in the very micro-batches that the losses will use: the first ratio is then exactly 1."""
        rewards, columns, lower = [], [], []
        for batch, counts in self._in_step(_micro(rollout.batch, self.settings.micro_batch)):
            below, tokens = self._below(batch), target_tokens(batch)
            scores = self._rewards(batch, below)
            logits = self._logits(self._policy, batch, below)
            logprobs, spreads = token_logprobs(logits, tokens), entropy(logits)
            del logits
            reference = token_logprobs(self._logits(self._reference, batch, below), tokens)
            column = torch.stack([logprobs, reference, self._values(batch, below), spreads])
            if not counts:
                continue
            rewards.append(scores)
            columns.append(column)
            if below is not None:
                lower.append(pad_width(below, rollout.batch.input_ids.shape[1]))
        mask = rollout.response_mask
        logprobs, reference, values, entropies = (
            spread(row, mask) for row in torch.cat(columns, dim=1)
        )
        return Scores(
            torch.cat(rewards),
            logprobs,
            reference,
            values,
            entropies,
            torch.cat(lower) if lower else None,
        )

    def _in_step(self, batches: list[TokenBatch]) -> list[tuple[TokenBatch, bool]]:
        """Micro-batches and whether they count: the first one stands in until every process has as many.

        Each forward of policy and critic is a meeting of all processes under ZeRO-3, and the shares of a look may differ by one.
        """
        most = max(self.engine.all_gather([len(batches)]))
        return [(batch, True) for batch in batches] + [(batches[0], False)] * (most - len(batches))

    def _shape(self, scores: Scores, mask: Tensor) -> _Shaped:
        rewards, transform = scores.rewards, self.settings.reward
        self._history = merge(self._history, rewards, self.engine.all_sum)
        if transform.normalise == "running":
            rewards = normalise(rewards, self._history)
        elif transform.scale == "running":
            rewards = scale(rewards, self._history)
        rewards = clip(rewards, transform.clip)
        kl = self.settings.kl
        estimate = (
            kl_estimate(scores.logprobs, scores.reference_logprobs, kl.estimator if kl else "k1")
            * mask
        )
        return _Shaped(
            rewards, estimate, token_rewards(rewards, estimate, mask, kl.coefficient if kl else 0.0)
        )

    def _describe(
        self, rollout: Rollout, scores: Scores, shaped: _Shaped, experience: Experience
    ) -> dict[str, Value]:
        mask = rollout.response_mask
        tally = Tally()
        tally.add(
            reward=scores.rewards,
            reward_squared=scores.rewards.square(),
            reward_normalised=shaped.scores,
            kl=shaped.kl[mask],
            kl_sequence=shaped.kl.sum(dim=1),
            response_length=rollout.lengths.float(),
            finished=rollout.finished.float(),
            logprob=scores.logprobs[mask],
            entropy=scores.entropy[mask],
            advantage_mean=experience.advantages[mask],
            advantage_squared=experience.advantages[mask].square(),
            return_mean=experience.returns[mask],
            return_squared=experience.returns[mask].square(),
            error=(experience.returns - scores.values)[mask],
            error_squared=(experience.returns - scores.values)[mask].square(),
            sampler_logprob_gap=(scores.logprobs - rollout.sampler_logprobs)[mask].abs(),
        )
        means = tally.means(self.engine.all_sum)
        variance = _variance(means, "return_mean", "return_squared")
        unexplained = _variance(means, "error", "error_squared")
        means["reward_std"] = _variance(means, "reward", "reward_squared") ** 0.5
        means["advantage_std"] = _variance(means, "advantage_mean", "advantage_squared") ** 0.5
        means["perplexity"] = math.exp(-means["logprob"])
        hidden = {
            "reward_squared",
            "advantage_squared",
            "return_squared",
            "error",
            "error_squared",
            "logprob",
        }
        shown: dict[str, Value] = {key: value for key, value in means.items() if key not in hidden}
        return {**shown, "explained_variance": 1 - unexplained / variance if variance > 0 else None}

    # -- losses ---------------------------------------------------------------------------------------------------

    def losses(
        self,
        name: str,
        iteration: int,
        batch: Experience,
        pretrain: TokenBatch | None,
        tally: Tally,
    ) -> list[Loss]:
        count = float(self.engine.all_sum(batch.response_mask.sum().double()))
        rows = torch.arange(len(batch), device=batch.response_mask.device).split(
            self.settings.micro_batch
        )
        if name == "policy":
            batch = self._reparameterised(batch)
        parts = [batch.select(index) for index in rows]
        if name == "critic":
            bound = (
                self.settings.value_clip if iteration >= 0 else None
            )  # pre-training has far to go
            return [
                lambda part=part: self._critic_loss(part, bound, count, tally) for part in parts
            ]  # type: ignore[misc]
        losses: list[Loss] = [
            lambda part=part: self._policy_loss(part, count, tally) for part in parts
        ]  # type: ignore[misc]
        if self.settings.ptx is not None and pretrain is not None:
            losses.append(lambda: self._ptx_loss(pretrain, tally))
        return losses

    def _reparameterised(self, batch: Experience) -> Experience:
        """Detail 6, over the mini-batch as a whole, whatever its micro-batches."""
        transform = self.settings.advantage
        if transform is None:
            return batch
        advantages = batch.advantages
        if transform.normalise == "mini-batch":
            advantages = whiten(advantages, batch.response_mask, self.engine.all_sum)
        return replace(batch, advantages=clip(advantages, transform.clip))

    def _policy_loss(self, part: Experience, count: float, tally: Tally) -> Tensor:
        mask = part.response_mask
        logits = self._logits(self._policy, part.batch, part.below)
        logprobs = token_logprobs(logits, target_tokens(part.batch))
        losses, ratio = surrogate(
            logprobs, part.old_logprobs[mask], part.advantages[mask], self.settings.surrogate_clip
        )
        deviation = (ratio.detach() - 1).abs()
        tally.add(policy_loss=losses, ratio_mean=ratio)
        if self.settings.penalty is not None:
            divergence = policy_kl(ratio)
            tally.add(policy_kl=divergence)
            losses = losses + self._penalty * divergence
        if self.settings.entropy is not None:
            bonus = entropy_loss(entropy(logits), self.settings.entropy.target)
            tally.add(entropy_loss=bonus)
            losses = losses + self.settings.entropy.coefficient * bonus
        if self.settings.surrogate_clip is not None:
            tally.add(clip_fraction=(deviation > self.settings.surrogate_clip).float())
        if self.settings.importance == "policy":
            tally.peak(ratio_max_deviation=float(deviation.max()))
        return losses.sum() / count

    def _critic_loss(
        self, part: Experience, bound: float | None, count: float, tally: Tally
    ) -> Tensor:
        mask = part.response_mask
        values = self._values(part.batch, part.below)
        losses, clipped = value_loss(values, part.old_values[mask], part.returns[mask], bound)
        tally.add(value_loss=losses, value_clip_fraction=clipped.float())
        return losses.sum() / count

    def _ptx_loss(self, batch: TokenBatch, tally: Tally) -> Tensor:
        """eq. 17: the language-modelling loss on plain text, weighted."""
        assert self.settings.ptx is not None
        with self.engine.autocast():
            logits = target_logits(self._policy, hidden_states(self._policy, batch), batch)
        losses = -token_logprobs(logits, target_tokens(batch))
        tally.add(ptx_loss=losses)
        count = float(
            self.engine.all_sum(torch.tensor(float(losses.numel()), device=losses.device))
        )
        return self.settings.ptx.coefficient * losses.sum() / count

    # -- models ---------------------------------------------------------------------------------------------------

    def _below(self, batch: TokenBatch) -> Tensor | None:
        """What all models share of a batch: the states under the trainable blocks; None if they share nothing."""
        if self._shared is None:
            return None
        with self.engine.autocast():
            return lower_states(self._reference, self._shared, batch)

    def _hidden(self, model: PreTrainedModel, batch: TokenBatch, below: Tensor | None) -> Tensor:
        if below is None or self._shared is None:
            return hidden_states(model, batch)
        return upper_states(model, self._shared, batch, below)

    def _logits(self, model: PreTrainedModel, batch: TokenBatch, below: Tensor | None) -> Tensor:
        with self.engine.autocast():
            hidden = self._hidden(model, batch, below)
            return target_logits(model, hidden, batch, self.settings.sampling.temperature)

    def _values(self, batch: TokenBatch, below: Tensor | None) -> Tensor:
        """Value of the state before each response token, [N]."""
        with self.engine.autocast():
            scalars = self._critic.from_hidden(self._hidden(self._critic.lm, batch, below))
        return scalars[:, :-1][batch.target_mask[:, 1:]]

    def _rewards(self, batch: TokenBatch, below: Tensor | None) -> Tensor:
        """Score of each response, [B]."""
        with self.engine.autocast():
            return at_last(self._hidden(self._reward.lm, batch, below), batch, self._reward)


def _micro(batch: TokenBatch, size: int) -> list[TokenBatch]:
    count = len(batch.input_ids)
    return [batch.rows(slice(start, start + size)) for start in range(0, count, size)]


def _variance(means: Mapping[str, float], mean: str, squared: str) -> float:
    return max(0.0, means[squared] - means[mean] ** 2)
