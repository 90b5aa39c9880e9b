"""ETPO, entropy-regularised token-level policy optimisation (arXiv 2402.06700), single-turn.

    rollout -> soft value of each state (policy, reference, target network) -> targets y_t
            -> policy, critic, target network in turn on each mini-batch

The critic gives Q(s, w) of every token w. Its target is the soft value of the next state, at the
last token the score; the policy is drawn towards pi_ref exp(Q / beta) in every state. No ratio, no
advantage estimation and no KL penalty in the reward.

Other than in the authors' code (morning9393/ETPO): the policy's loss is the expectation under the
policy and has pi_ref in it; Q starts at 0; pi and pi_ref are taken at the sampling temperature, as
everywhere here. `ppo.etpo.form: published` is the code's loss, as a control. The paper's own
equations and results are not verified.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.algorithms.actor_critic import CRITIC, critic_of
from rlhf.algorithms.base import POLICY, Context, Inputs, Sources, Step, Update, Updates
from rlhf.algorithms.on_policy import LearningData, OnPolicy, TokenRewards
from rlhf.algorithms.scored_policy import REFERENCE
from rlhf.batches.padding import TokenBatch
from rlhf.common.metrics import Value
from rlhf.core.tally import Tally
from rlhf.engine import Loss
from rlhf.models.action_values import QHead, load_q_model, moving_parts, polyak_update
from rlhf.models.backbone import target_tokens
from rlhf.ppo.etpo import (
    etpo_critic_loss,
    etpo_policy_loss,
    etpo_published_loss,
    exact_kl,
    q_spread,
    soft_targets,
    soft_values,
)
from rlhf.rollout.records import Experience, Rollout, Scores
from rlhf.settings import Settings

TARGET = "target"
# states whose whole distributions are in memory at once, beside the policy's logits
CHUNK = 512


class Etpo(OnPolicy):
    """Policy and critic learn, a target network follows the critic; reference and rewards are frozen."""

    curves: ClassVar[tuple[str, ...]] = (
        *OnPolicy.curves,
        "soft_value",
        "q_mean",
        "q_advantage_std",
        "td_error",
        "q_loss",
        "policy_loss",
    )
    peaks: ClassVar[tuple[str, ...]] = ("largest_td_error",)

    # -- models ------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        models = dict.fromkeys((*inputs.models, critic_of(settings).initial))
        return replace(inputs, models=tuple(models))

    def __init__(self, context: Context) -> None:
        assert context.settings.ppo.etpo is not None
        self.etpo = context.settings.ppo.etpo
        self.critic = critic_of(context.settings)
        self.warmup_iterations = self.critic.pretraining_iterations
        super().__init__(context)

    def load_models(self, context: Context) -> None:
        """The critic's blocks are those of the reward or the SFT model; its head of Q is 0."""
        super().load_models(context)
        ppo, critic = self.settings, self.critic
        learning = self.optimizer_steps(ppo.iterations, ppo.epochs)
        warmup = self.optimizer_steps(self.warmup_iterations, critic.pretraining_epochs)
        directory = context.workspace.model(critic.initial)
        self.models.train(CRITIC, load_q_model(directory), critic.optimizer, learning + warmup)
        self.models.freeze(TARGET, load_q_model(directory))
        # what is frozen may be cast to bf16, which would round its small steps to nothing
        self.models[TARGET].float()

    # -- scoring -----------------------------------------------------------------------------------

    def values(self, part: TokenBatch) -> Tensor:
        """The soft value of the state before each response token by the target network, [N]."""
        beta = self.etpo.beta
        values = []
        for policy, reference, target in self._chunks((POLICY, REFERENCE, TARGET), part):
            logits = self._distribution(POLICY, policy)
            reference_logits = self._distribution(REFERENCE, reference)
            q = self.models.unembed(TARGET, target)
            values.append(soft_values(logits, reference_logits, q, beta))
        return torch.cat(values)

    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        """Soft advantages y_t - V(s_t), which are only watched, and the critic's targets y_t."""
        targets = soft_targets(scores.values, rewards.final, rollout.response_mask)
        return targets - scores.values, targets

    def described(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards, experience: Experience
    ) -> dict[str, Value]:
        mask, tally = rollout.response_mask, Tally()
        tally.add(soft_value=scores.values[mask], q_target=experience.returns[mask])
        metrics = super().described(rollout, scores, rewards, experience)
        return metrics | tally.means(self.engine.all_sum)

    # -- learning ----------------------------------------------------------------------------------

    def learning(self, sources: Sources, iteration: int, data: LearningData) -> Updates:
        """Policy, then critic, on each mini-batch; before iteration 0 the critic alone.

        Where Q is still 0, the policy would only be drawn to the reference.
        """
        alone = iteration < 0
        yield Update(
            roles=(CRITIC,) if alone else (POLICY, CRITIC),
            mini_batches=data.mini_batches,
            losses=partial(self._losses, iteration, sources),
            epochs=self.critic.pretraining_epochs if alone else self.settings.epochs,
            metrics=data.metrics,
            signals=data.signals,
            after_step=self._after_step,
            evidence=partial(self.evidence, iteration, sources),
        )

    def _after_step(self, role: str) -> None:
        """The target network follows the critic."""
        if role == CRITIC:
            polyak_update(self.models[TARGET], self.models[CRITIC], self.etpo.polyak)

    def evidence(self, iteration: int, sources: Sources, step: Step[Experience]) -> dict[str, Any]:
        # as text: NaN is no JSON
        targets = [[str(value) for value in row] for row in step.batch.returns.tolist()]
        return {"targets": targets, **super().evidence(iteration, sources, step)}

    # -- losses ------------------------------------------------------------------------------------

    def _losses(self, iteration: int, sources: Sources, step: Step[Experience]) -> list[Loss]:
        if step.role == POLICY:
            return self._policy_losses(iteration, sources, step)
        count = self.tokens_of(step.batch)
        parts = step.batch.split(self.settings.micro_batch)
        return [partial(self._critic_part, part, count, step) for part in parts]

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        """L = sum_w pi(w|s) (beta log pi(w|s) / pi_ref(w|s) - Q(s, w)), with the critic as it is now."""
        with torch.no_grad():
            chunks = self._chunks((REFERENCE, CRITIC), part.batch)
        columns = []
        for own, (reference, critic) in zip(logits.split(CHUNK), chunks, strict=True):
            # what it holds is of the size of the vocabulary: made again in the backward pass
            column = checkpoint(
                self._policy_chunk,
                *(own, reference, critic),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            columns.append(column)
        losses, kl, spread = torch.cat(columns, dim=1)
        step.tally.add(policy_loss=losses, kl_exact=kl, q_advantage_std=spread)
        return losses

    def _policy_chunk(self, logits: Tensor, reference: Tensor, critic: Tensor) -> Tensor:
        """Loss, KL and spread of Q of some states, [3, n], from logits [n, V] and hidden states [n, H]."""
        beta = self.etpo.beta
        with torch.no_grad():
            reference_logits = self._distribution(REFERENCE, reference)
            q = self.models.unembed(CRITIC, critic)
            kl, spread = exact_kl(logits, reference_logits), q_spread(logits, q)
        if self.etpo.form == "published":
            losses = etpo_published_loss(logits, q, beta)
        else:
            losses = etpo_policy_loss(logits, reference_logits, q, beta)
        return torch.stack([losses, kl, spread])

    def _critic_part(self, part: Experience, count: float, step: Step[Experience]) -> Tensor:
        q, targets = self._q_taken(part.batch), part.returns[part.response_mask]
        losses = etpo_critic_loss(q, targets, self.etpo.huber)
        error = (q - targets).detach().abs()
        step.tally.add(q_loss=losses, q_mean=q, td_error=error)
        step.tally.peak(largest_td_error=float(error.max()))
        return losses.sum() / count

    # -- what the models say -----------------------------------------------------------------------

    def _q_taken(self, batch: TokenBatch) -> Tensor:
        """The critic's Q of each response token in the state before it, [N]."""
        head = self.models.language_model(CRITIC).get_output_embeddings()
        assert isinstance(head, QHead)
        return head.of_tokens(self.models.target_states(CRITIC, batch), target_tokens(batch))

    def _chunks(self, roles: tuple[str, ...], batch: TokenBatch) -> Iterator[tuple[Tensor, ...]]:
        """The hidden states [n, H] of several models that predict the same few response tokens."""
        states = [self.models.target_states(role, batch) for role in roles]
        return zip(*(own.split(CHUNK) for own in states), strict=True)

    def _distribution(self, role: str, states: Tensor) -> Tensor:
        """Logits [n, V] at the temperature that was sampled."""
        return self.models.unembed(role, states, self.settings.sampling.temperature)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The target network is in no trainer: it goes with the algorithm's own state."""
        moving = moving_parts(self.models[TARGET], self.models[CRITIC])
        return {**super().state(), "target": {name: kept for name, kept, _ in moving}}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        for name, kept, _ in moving_parts(self.models[TARGET], self.models[CRITIC]):
            kept.copy_(state["target"][name])
