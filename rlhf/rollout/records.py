"""The records that pass from hop to hop of the policy loop: Rollout -> Scores -> Experience.

B responses, P prompt, R longest response, T = P + R, N response tokens, H hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.rollout.prompts import PromptBatch


@dataclass(frozen=True)
class Sampled:
    """Responses as token ids, and the sampler's own log p of each token.

    The last token of a response is one of the rule's `ends` if it ended by itself.
    """

    responses: list[list[int]]
    logprobs: list[list[float]]


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

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def lengths(self) -> Tensor:
        """Response tokens of each row, [B]."""
        return self.response_mask.sum(dim=1)


def make_rollout(
    prompts: PromptBatch,
    sampled: Sampled,
    eos_id: int,
    pad_id: int,
    device: torch.device,
    other_ends: Sequence[int] = (),
) -> Rollout:
    """Join prompts and responses into one rollout on `device`; `other_ends` end a response as `eos_id` does."""
    responses = sampled.responses
    batch = pad_responses(prompts.ids, responses, pad_id)
    shape = (len(responses), max(len(response) for response in responses))
    mask = torch.zeros(shape, dtype=torch.bool)
    logprobs = torch.zeros(shape)
    for row, values in enumerate(sampled.logprobs):
        mask[row, : len(values)] = True
        logprobs[row, : len(values)] = torch.tensor(values)
    # a response that ran into the limit has no end token
    ends = {eos_id, *other_ends}
    finished = torch.tensor([response[-1] in ends for response in responses])
    return Rollout(
        prompts=prompts,
        responses=responses,
        batch=batch.to(device),
        response_mask=mask.to(device),
        sampler_logprobs=logprobs.to(device),
        finished=finished.to(device),
    )


# -- what the models say of it ---------------------------------------------------------------------


@dataclass(frozen=True)
class SourceScores:
    """What one reward says of each response.

    scores: [B] as it is, 0 where it could not tell
    failed: [B] True there; None for a reward that can always tell
    """

    scores: Tensor
    failed: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """What the models say of a rollout; [B, R] on response tokens unless said otherwise.

    scores: [B] what the rewards say of each response, as it is; sources: each reward alone, by name
    logprobs, reference_logprobs: under the policy that sampled, and under the reference
    values: the critic's value of the state before each response token
    entropies: of the policy at each response token, in nats
    """

    scores: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    entropies: Tensor
    sources: Mapping[str, SourceScores] = field(default_factory=dict)


# -- what is learnt from ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Experience:
    """What the losses learn from; [B, R] unless said otherwise.

    batch: [B, T]; response_mask; old_logprobs and old_values of the models that made the rollout;
    reference_logprobs; advantages; returns
    sampler_weights: by which the loss of a token is multiplied since the sampler was not quite the
        policy; None: every one is 1
    """

    batch: TokenBatch
    response_mask: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    sampler_weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.response_mask)

    def select(self, rows: Tensor) -> "Experience":
        """Some of the rows, [b] int64; padding that none of them needs is cut off."""
        mask = self.response_mask[rows]
        width = int(mask.sum(dim=1).max())
        weights = self.sampler_weights
        return Experience(
            batch=self.batch.select(rows),
            response_mask=mask[:, :width],
            old_logprobs=self.old_logprobs[rows, :width],
            reference_logprobs=self.reference_logprobs[rows, :width],
            old_values=self.old_values[rows, :width],
            advantages=self.advantages[rows, :width],
            returns=self.returns[rows, :width],
            sampler_weights=None if weights is None else weights[rows, :width],
        )

    def split(self, size: int) -> list["Experience"]:
        """The rows in their order, `size` at a time."""
        rows = torch.arange(len(self), device=self.response_mask.device)
        return [self.select(part) for part in rows.split(size)]

    def evidence(self) -> dict[str, Any]:
        """Tokens and advantages, for the record of a refused step."""
        # as text: NaN is no JSON
        advantages = [[str(value) for value in row] for row in self.advantages.tolist()]
        return {"input_ids": self.batch.input_ids.tolist(), "advantages": advantages}
