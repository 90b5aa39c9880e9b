"""A policy beside its reference and its rewards: the models, what they say of responses, validation.

What all algorithms have in common that improve a policy on scored responses, one at a time
(`on_policy`) or in pairs (`online_preference`).
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import POLICY, Context, Inputs, Validation
from rlhf.algorithms.metrics import signals_of, source_metrics
from rlhf.batches.padding import TokenBatch
from rlhf.engine import in_step
from rlhf.models.backbone import entropies, scatter_to_mask, target_tokens, token_logprobs
from rlhf.models.roles import Models
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.kl import kl_estimate
from rlhf.rewards.base import RewardContext, make_rewards
from rlhf.rollout.records import Rollout, Scores
from rlhf.settings import Settings

REFERENCE = "reference"
# by which the best policy is chosen where the penalty is off: the paper's
_KL_COEFFICIENT = 0.05


class ScoredPolicy:
    """The policy learns; reference and rewards are frozen."""

    warmup_iterations = 0

    curves: ClassVar[tuple[str, ...]] = (
        "reward",
        "kl",
        "response_length",
        "perplexity",
        "entropy",
        "finished",
    )
    peaks: ClassVar[tuple[str, ...]] = ()

    # -- models ------------------------------------------------------------------------------------

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        """What its models and its rewards are read from."""
        ppo = settings.ppo
        rewards = [source.address for source in ppo.rewards]
        scoring = [reward.detail for reward in rewards if reward.kind == "model"]
        models = dict.fromkeys(("sft", *scoring, ppo.initial))
        elsewhere = {str(reward): reward.path for reward in rewards if reward.kind == "hf"}
        return Inputs(tables=("prompts",), models=tuple(models), elsewhere=elsewhere)

    def __init__(self, context: Context) -> None:
        self.engine = context.engine
        self.settings = context.settings.ppo
        layers, lora = self.settings.trainable_layers, self.settings.lora
        self.models = Models(self.engine, layers, lora, context.settings.seed)
        self.load_models(context)
        rewards = RewardContext(context.settings, context.workspace, self.models, context.tokenizer)
        self.rewards = make_rewards(rewards)
        self.models.share_trunk()

    def load_models(self, context: Context) -> None:
        """Detail 9: the policy from SFT or base; the reference is SFT."""
        ppo, workspace = self.settings, context.workspace
        dtype = self.engine.dtype
        policy = load_causal_lm(workspace.model(ppo.initial), dtype)
        learning = self.optimizer_steps(ppo.iterations, ppo.epochs)
        self.models.train(POLICY, policy, ppo.optimizer, learning)
        self.models.freeze(REFERENCE, load_causal_lm(workspace.model("sft"), dtype))

    def optimizer_steps(self, iterations: int, epochs: int) -> int:
        """Of one model in so many iterations, each of so many epochs."""
        return iterations * epochs * (self.settings.rollouts // self.settings.mini_batch)

    # -- scoring -----------------------------------------------------------------------------------

    def with_trunk_states(self, rollout: Rollout) -> Rollout:
        """The rollout with the states of the blocks that all models share, where they do."""
        batch = self.models.with_trunk_states(rollout.batch, self.settings.micro_batch)
        return replace(rollout, batch=batch)

    @torch.no_grad()
    def score(self, rollout: Rollout) -> Scores:
        """Ask all models, in the very micro-batches that the losses use: the first ratio is then 1 exactly."""
        columns: list[Tensor] = []
        parts = rollout.batch.micro_batches(self.settings.micro_batch)
        for part, counts in in_step(self.engine, parts):
            logits = self.logits(POLICY, part)
            tokens = target_tokens(part)
            logprobs, part_entropies = token_logprobs(logits, tokens), entropies(logits)
            # two of these at once would be the peak of memory
            del logits
            reference = token_logprobs(self.logits(REFERENCE, part), tokens)
            values = self.values(part)
            if counts:
                columns.append(torch.stack([logprobs, reference, values, part_entropies]))

        rows = torch.cat(columns, dim=1)
        mask = rollout.response_mask
        logprobs, reference, values, all_entropies = (scatter_to_mask(row, mask) for row in rows)
        sources = self.rewards.read(rollout)
        return Scores(
            scores=self.rewards.total(sources),
            logprobs=logprobs,
            reference_logprobs=reference,
            values=values,
            entropies=all_entropies,
            sources=sources,
        )

    def values(self, part: TokenBatch) -> Tensor:
        """Value of the state before each response token, [N]: 0 where there is no critic."""
        return torch.zeros(int(part.target_mask.sum()), device=part.target_mask.device)

    def logits(self, role: str, batch: TokenBatch) -> Tensor:
        """Logits that predict each target token, [N, V], at the temperature that was sampled."""
        return self.models.target_logits(role, batch, self.settings.sampling.temperature)

    # -- validation --------------------------------------------------------------------------------

    def validate(self, rollout: Rollout) -> Validation:
        rollout = self.with_trunk_states(rollout)
        scores, mask = self.score(rollout), rollout.response_mask
        kl = kl_estimate(scores.logprobs, scores.reference_logprobs) * mask
        by_source = source_metrics(scores.sources, self.engine.all_sum)
        return Validation(
            scores=scores.scores,
            objective=scores.scores / self.rewards.score_std - self.kl_price() * kl.sum(dim=1),
            metrics={
                "kl": kl[mask],
                "kl_sequence": kl.sum(dim=1),
                # nats a token of its own responses; step logs have always called it so
                "surprise": -scores.logprobs[mask],
                "entropy": scores.entropies[mask],
                "length": rollout.lengths.float(),
                "finished": rollout.finished.float(),
                # the same on every process, as a spread is no mean over responses
                **{key: torch.full_like(kl[:1, 0], value) for key, value in by_source.items()},
            },
            signals=signals_of(rollout, scores, kl, self.engine.all_sum),
        )

    def kl_price(self) -> float:
        """What a nat of divergence costs in the objective of a validation, in units of `score_std`."""
        return self.settings.kl.coefficient if self.settings.kl else _KL_COEFFICIENT
