"""AIHF without a reward model: the policy's own implicit reward learns from demonstrations and pairs.

With R = beta log pi / pi_ref the policy that R induces is pi itself. The likelihood of the
demonstrations is then maximum likelihood, and that of the pairs DPO. Nothing is sampled to learn
from; `ppo.rewards` only judge validations. This form of AIHF (arXiv 2406.06874) is from memory of the
paper, whose full text was not at hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import POLICY, Context, Inputs, Sources, Step, Update, Updates
from rlhf.algorithms.feedback import TABLES, Demonstrations, Feedback
from rlhf.algorithms.scored_policy import REFERENCE, ScoredPolicy
from rlhf.batches.comparisons import Comparisons, margins, ranked_right
from rlhf.batches.padding import TokenBatch
from rlhf.common.errors import SettingsError
from rlhf.core.tally import Tally
from rlhf.engine import Loss
from rlhf.models.backbone import scatter_to_mask, target_tokens, token_logprobs
from rlhf.ppo.aihf import bradley_terry_loss
from rlhf.ppo.dpo import implicit_rewards
from rlhf.settings import Settings
from rlhf.settings.neighbours import AihfDirectSettings


@dataclass(frozen=True)
class DirectBatch:
    """What a step of the policy learns from.

    demonstrations: [D, T] prompt and answer; the targets are the answer's tokens
    reference_logprobs: [2 C] log pi_ref of each answer of the pairs, a sum over its tokens
    """

    demonstrations: TokenBatch
    pairs: Comparisons
    reference_logprobs: Tensor

    def evidence(self) -> dict[str, Any]:
        """The tokens, for the record of a refused step."""
        return {
            "demonstrations": self.demonstrations.input_ids.tolist(),
            "pairs": self.pairs.batch.input_ids.tolist(),
        }


class AihfDirect(ScoredPolicy):
    """The policy learns from demonstrations and pairs; log-probabilities are at temperature 1."""

    curves: ClassVar[tuple[str, ...]] = ("demonstration_nll", "pair_margin", "pair_accuracy")

    # -- models ------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        inputs = super().inputs(settings)
        return replace(inputs, tables=(*inputs.tables, *TABLES))

    def __init__(self, context: Context) -> None:
        self.direct = aihf_direct_of(context.settings)
        self.feedback = Feedback(context)
        super().__init__(context)

    def optimizer_steps(self, iterations: int, epochs: int) -> int:
        """One an epoch: an iteration's rows are one mini-batch."""
        return iterations * epochs

    # -- an iteration ------------------------------------------------------------------------------

    def updates(self, sources: Sources, iteration: int) -> Updates:
        # 1. what is learnt from; the reference's part of it stands still
        direct = self.direct
        demonstrations = self.feedback.demonstrations(sources, iteration, direct.demonstrations)
        pairs = self.feedback.pairs(sources, iteration, direct.pairs)
        batch = DirectBatch(
            demonstrations=self.feedback.answered(demonstrations),
            pairs=pairs,
            reference_logprobs=self._reference_logprobs(pairs),
        )

        # 2. learn from all of it at once
        yield Update(
            roles=(POLICY,),
            mini_batches=[batch],
            losses=self._losses,
            epochs=self.settings.epochs,
            metrics=self._described(demonstrations),
        )

    def _described(self, demonstrations: Demonstrations) -> dict[str, float]:
        tally = Tally()
        tally.add(**demonstrations.columns(self.engine.device))
        return tally.means(self.engine.all_sum)

    @torch.no_grad()
    def _reference_logprobs(self, pairs: Comparisons) -> Tensor:
        parts = pairs.split(self.feedback.comparisons_at_once)
        return torch.cat([self._response_logprobs(REFERENCE, part.batch) for part in parts])

    # -- losses ------------------------------------------------------------------------------------

    def _losses(self, step: Step[DirectBatch]) -> list[Loss]:
        """L = w_d mean over demonstrations of -log pi(y|x) + w_p mean over pairs of DPO's loss."""
        demonstrations = step.batch.demonstrations.micro_batches(self.settings.micro_batch)
        return [
            *(partial(self._demonstration_part, part, step) for part in demonstrations),
            *(partial(self._pair_part, *part, step) for part in self._pair_parts(step.batch)),
        ]

    def _pair_parts(self, batch: DirectBatch) -> Iterator[tuple[Comparisons, Tensor]]:
        size = self.feedback.comparisons_at_once
        reference = batch.reference_logprobs.split(2 * size)
        return zip(batch.pairs.split(size), reference, strict=True)

    def _demonstration_part(self, part: TokenBatch, step: Step[DirectBatch]) -> Tensor:
        """-log pi(y|x), a sum over the tokens of an answer."""
        losses = -self._response_logprobs(POLICY, part)
        step.tally.add(demonstration_nll=losses)
        # the count is that of all processes: micro-batches and processes only add up
        return self.direct.demonstration_weight * losses.sum() / self.direct.demonstrations

    def _pair_part(self, part: Comparisons, reference: Tensor, step: Step[DirectBatch]) -> Tensor:
        """-log sigmoid(R(y+) - R(y-)), R = beta log pi / pi_ref."""
        logprobs = self._response_logprobs(POLICY, part.batch)
        rewards = implicit_rewards(logprobs, reference, self.direct.beta)
        above = part.weights * margins(rewards)
        losses = part.weights * bradley_terry_loss(above)
        step.tally.add(pair_loss=losses, pair_margin=above, pair_accuracy=ranked_right(above))
        return self.direct.pair_weight * losses.sum() / self.direct.pairs

    def _response_logprobs(self, role: str, batch: TokenBatch) -> Tensor:
        """log p of each answer, [B], a sum over its tokens."""
        logits = self.models.target_logits(role, batch)
        logprobs = token_logprobs(logits, target_tokens(batch))
        return scatter_to_mask(logprobs, batch.target_mask).sum(dim=1)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing survives beside the policy: rows are known by the iteration."""


def aihf_direct_of(settings: Settings) -> AihfDirectSettings:
    """The section `ppo.aihf_direct`; raises SettingsError where it is off."""
    if settings.ppo.aihf_direct is None:
        raise SettingsError(f"ppo.aihf_direct: algorithm {settings.ppo.algorithm} needs it")
    return settings.ppo.aihf_direct
