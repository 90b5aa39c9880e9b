"""Learning from pairs that are drawn anew each iteration: what xpo and online-dpo share.

    two draws a prompt -> scores of all models -> pairs ranked by the rewards or a judge -> policy

`ppo.rollouts` counts prompts here, each with two responses, and `ppo.mini_batch` pairs. A member
states who gives the second response, and how its loss explores.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import POLICY, Context, Sources, Step, Update, Updates
from rlhf.algorithms.metrics import signals_of, source_metrics
from rlhf.algorithms.pair_judge import PairJudge
from rlhf.algorithms.pair_metrics import judge_metrics, pair_metrics
from rlhf.algorithms.scored_policy import ScoredPolicy
from rlhf.core.seeds import generator
from rlhf.engine import Loss
from rlhf.models.backbone import scatter_to_mask, target_tokens, token_logprobs
from rlhf.models.kept_trunks import KeptTrunks
from rlhf.ppo.dpo import dpo_loss, ipo_loss
from rlhf.ppo.kl import kl_estimate
from rlhf.rollout.records import Rollout
from rlhf.rollout.sampled_pairs import (
    PairExperience,
    SampledPair,
    pair_experience,
    pairs_from_state,
    pairs_state,
    preferences_of_scores,
    ranked_pairs,
)
from rlhf.settings.neighbours import PairSettings
from rlhf.settings.policy import Ppo

# of sums of policy and reference over chosen and rejected responses, and beta
PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
_LOSSES: Mapping[str, PairLoss] = {"sigmoid": dpo_loss, "ipo": ipo_loss}


class OnlinePreference(ScoredPolicy, ABC):
    """The policy learns from ranked pairs; reference and rewards are frozen.

    With `accumulate` an iteration learns from all pairs so far, else from its own.
    """

    curves: ClassVar[tuple[str, ...]] = (*ScoredPolicy.curves, "pair_accuracy", "ties")

    def __init__(self, context: Context) -> None:
        # before the models: the number of their steps depends on it
        self.pairing = self.section(context.settings.ppo)
        judge = self.pairing.judge
        # before the models too: a key that is missing is told at once
        self._judge = PairJudge(judge, context) if judge else None
        super().__init__(context)
        self._seed = context.settings.seed
        self._pad_id = int(context.tokenizer.pad_token_id)
        # of the iterations before, those of all processes in one order
        self._past: list[SampledPair] = []
        self._trunks = KeptTrunks(self.models)

    # -- what a member states ----------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def section(cls, ppo: Ppo) -> PairSettings:
        """Its own settings."""

    @property
    @abstractmethod
    def second_role(self) -> str:
        """The role that gives each prompt its second response."""

    def exploration(self, iteration: int, second: Tensor, reference: Tensor) -> Tensor | None:
        """What each pair's loss gains, [B], from log pi and log pi_ref of the second response, sums.

        None, unless overridden: nothing.
        """
        return None

    def before_learning(self, iteration: int) -> Mapping[str, float]:
        """Metrics that are known before an update: none, unless overridden."""
        return {}

    # -- an iteration ------------------------------------------------------------------------------

    def updates(self, sources: Sources, iteration: int) -> Updates:
        # 1. two responses to each prompt, and what all models say of them
        first = self.with_trunk_states(sources.rollouts(POLICY))
        second = self.with_trunk_states(sources.rollouts(self.second_role))
        first_scores, second_scores = self.score(first), self.score(second)

        # 2. pairs, those of all processes
        by_scores = preferences_of_scores(first_scores, second_scores)
        preferences = self._judge.preferences(first, second) if self._judge else by_scores
        own = ranked_pairs(first, second, first_scores, second_scores, preferences)
        fresh = self._gathered(first, own)
        pairs = [*self._past, *fresh]
        if self.pairing.accumulate:
            self._past = pairs
        else:
            self._trunks.forget()
        all_sum = self.engine.all_sum
        metrics = pair_metrics(first, first_scores, second_scores, own, all_sum)
        metrics |= source_metrics(first_scores.sources, all_sum)
        if self._judge:
            facts, device = self._judge.facts, self.engine.device
            metrics |= judge_metrics(preferences, by_scores, facts, device, all_sum)
        kl = kl_estimate(first_scores.logprobs, first_scores.reference_logprobs)

        # 3. learn from them; an update without roles is logged, and learns nothing
        anything = any(pair.weight > 0 for pair in pairs)
        yield Update(
            roles=(POLICY,) if anything else (),
            mini_batches=self.mini_batches(pairs, iteration) if anything else (),
            losses=partial(self._losses, iteration),
            epochs=self.settings.epochs,
            metrics={**metrics, "pairs": len(pairs), **self.before_learning(iteration)},
            signals=signals_of(first, first_scores, kl * first.response_mask, all_sum),
        )

    def _gathered(self, rollout: Rollout, pairs: Sequence[SampledPair]) -> list[SampledPair]:
        """The pairs of all processes by the places of their prompts, however many processes there are."""
        placed = self.engine.all_gather(list(zip(rollout.prompts.positions, pairs, strict=True)))
        return [pair for _, pair in sorted(placed, key=lambda item: item[0])]

    def mini_batches(self, pairs: Sequence[SampledPair], iteration: int) -> list[PairExperience]:
        """This process's part of each mini-batch; old pairs and new are mixed anew each iteration."""
        random = generator(self._seed, "pairs", iteration)
        order = torch.randperm(len(pairs), generator=random).tolist()
        size = self.settings.mini_batch
        part = size // self.engine.world_size
        first = part * self.engine.rank
        batches = []
        # rollouts is a multiple of mini_batch: the last one is whole too
        for start in range(0, len(pairs), size):
            rows = order[start + first : start + first + part]
            mine = [pairs[row] for row in rows]
            batches.append(pair_experience(mine, self._pad_id, self.engine.device))
        return batches

    # -- losses ------------------------------------------------------------------------------------

    def _losses(self, iteration: int, step: Step[PairExperience]) -> list[Loss]:
        # a mean over the pairs that count; where none does the loss is 0
        count = max(1.0, float(self.engine.all_sum(step.batch.weights.sum().double())))
        # micro_batch counts responses
        pairs_at_once = max(1, self.settings.micro_batch // 2)
        batch = replace(step.batch, batch=self._trunks.join(step.batch.batch))
        parts = batch.split(pairs_at_once)
        return [partial(self._loss, part, count, iteration, step) for part in parts]

    def _loss(
        self, part: PairExperience, count: float, iteration: int, step: Step[PairExperience]
    ) -> Tensor:
        """L = loss of the pairs + exploration, a mean over the mini-batch's pairs that count."""
        chosen, rejected = self.response_logprobs(part).unbind(dim=1)
        reference_chosen, reference_rejected = part.reference_logprobs.unbind(dim=1)
        beta, counts, tally = self.pairing.beta, part.weights > 0, step.tally

        loss = _LOSSES[self.pairing.loss]
        losses = loss(chosen, rejected, reference_chosen, reference_rejected, beta)
        chosen_ratio, rejected_ratio = chosen - reference_chosen, rejected - reference_rejected
        tally.add(
            preference_loss=losses[counts],
            implicit_margin=beta * (chosen_ratio - rejected_ratio)[counts],
            chosen_log_ratio=chosen_ratio[counts],
            rejected_log_ratio=rejected_ratio[counts],
        )

        second = torch.where(part.second_is_chosen, chosen, rejected)
        reference = torch.where(part.second_is_chosen, reference_chosen, reference_rejected)
        exploration = self.exploration(iteration, second, reference)
        if exploration is not None:
            tally.add(exploration_loss=exploration[counts])
            losses = losses + exploration
        tally.add(policy_loss=losses[counts])
        return (part.weights * losses).sum() / count

    def response_logprobs(self, part: PairExperience) -> Tensor:
        """log pi of the chosen and the rejected response of each pair, sums, [B, 2], at the sampling temperature."""
        logits = self.logits(POLICY, part.batch)
        logprobs = token_logprobs(logits, target_tokens(part.batch))
        return scatter_to_mask(logprobs, part.batch.target_mask).sum(dim=1).view(-1, 2)

    # -- the number of steps, validation, state ----------------------------------------------------

    def optimizer_steps(self, iterations: int, epochs: int) -> int:
        """Where pairs accumulate, the i-th iteration has i times the steps of the first."""
        rounds = iterations * (iterations + 1) // 2 if self.pairing.accumulate else iterations
        return super().optimizer_steps(rounds, epochs)

    def kl_price(self) -> float:
        """beta: the best policy is that of the highest reward less beta KL, as in the paper of XPO."""
        return self.pairing.beta

    def state(self) -> dict[str, Any]:
        return {"pairs": pairs_state(self._past)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._past = pairs_from_state(state["pairs"])
