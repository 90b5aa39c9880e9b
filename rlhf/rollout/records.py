"""The records that pass from hop to hop of the policy loop. B rollouts, P prompt, R longest response, T = P + R."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.rollout.sampler import Sampled


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to answer: token ids, kinds and texts, and the global row numbers that name their random streams."""

    ids: list[list[int]]
    kinds: list[str]
    texts: list[str]
    rows: list[int]


@dataclass(frozen=True)
class Rollout:
    """Sampled responses.

    batch: [B, T] prompt and response right-padded, target_mask True on response tokens
    response_mask: [B, R] True on response tokens
    sampler_logprobs: [B, R] log p as the sampler saw it, 0 outside the mask
    finished: [B] True where the response ended by itself
    """

    prompts: PromptBatch
    responses: list[list[int]]
    batch: TokenBatch
    response_mask: Tensor
    sampler_logprobs: Tensor
    finished: Tensor

    @property
    def lengths(self) -> Tensor:
        """Response tokens of each row, [B]."""
        return self.response_mask.sum(dim=1)


def make_rollout(
    prompts: PromptBatch, sampled: Sampled, eos_id: int, pad_id: int, device: torch.device
) -> Rollout:
    """Join prompts and responses into one rollout on `device`."""
    batch = pad_responses(prompts.ids, sampled.responses, pad_id).to(device)
    width = max(len(response) for response in sampled.responses)
    mask = torch.zeros((len(sampled.responses), width), dtype=torch.bool)
    logprobs = torch.zeros((len(sampled.responses), width))
    for row, values in enumerate(sampled.logprobs):
        mask[row, : len(values)] = True
        logprobs[row, : len(values)] = torch.tensor(values)
    finished = torch.tensor([response[-1] == eos_id for response in sampled.responses])
    return Rollout(
        prompts, sampled.responses, batch, mask.to(device), logprobs.to(device), finished.to(device)
    )


@dataclass(frozen=True)
class Scores:
    """What the models say of a rollout.

    rewards: [B] raw score of the reward model
    logprobs, reference_logprobs: [B, R] of the response tokens under the policy that sampled them and the reference
    values: [B, R] the critic's value of the state before each response token
    entropy: [B, R] of the policy at each response token, in nats
    below: [B, T, H] states under the trainable blocks where all models share them, else None
    """

    rewards: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    entropy: Tensor
    below: Tensor | None = None


@dataclass(frozen=True)
class Experience:
    """What the losses learn from; [B, R] unless said otherwise.

    batch: [B, T]; response_mask; old_logprobs and old_values of the models that made the rollout; advantages; returns
    below: [B, T, H] as in `Scores`
    """

    batch: TokenBatch
    response_mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    below: Tensor | None = None

    def __len__(self) -> int:
        return len(self.response_mask)

    def evidence(self) -> dict[str, Any]:
        """Tokens and advantages, for the record of a refused step."""
        advantages = [
            [str(value) for value in row] for row in self.advantages.tolist()
        ]  # NaN is no JSON
        return {"input_ids": self.batch.input_ids.tolist(), "advantages": advantages}

    def select(self, index: Tensor) -> "Experience":
        """Some of the rows, [b] int64; padding that no row needs is cut off."""
        mask = self.response_mask[index]
        width = int(mask.sum(dim=1).max())
        batch = TokenBatch(
            self.batch.input_ids[index],
            self.batch.attention_mask[index],
            self.batch.target_mask[index],
        )
        logprobs, values, advantages, returns = (
            part[index, :width]
            for part in (self.old_logprobs, self.old_values, self.advantages, self.returns)
        )
        batch = batch.rows(slice(None))
        below = None if self.below is None else self.below[index, : batch.input_ids.shape[1]]
        return Experience(batch, mask[:, :width], logprobs, values, advantages, returns, below)
