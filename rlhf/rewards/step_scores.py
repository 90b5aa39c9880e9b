"""What a frozen process reward model says of the steps of responses, and the best of n by it.

scorer = StepScorer.load(workspace.model("process"), engine)
rows = scorer.best_of_n(prompts, responses, n=8, aggregate="min")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.batches.padding import Ids, TokenBatch, pad_responses
from rlhf.common.errors import ModelError
from rlhf.core.separators import StepFinder
from rlhf.core.tokenizers import end_ids
from rlhf.engine import Engine, in_step
from rlhf.models.backbone import scatter_to_mask
from rlhf.models.heads import load_scalar_model, separator_of
from rlhf.models.roles import Models
from rlhf.models.saving import load_tokenizer
from rlhf.ppo.steps import Aggregate, best_of_n, solution_scores

ROLE = "process"


@dataclass(frozen=True)
class StepProbabilities:
    """That each step is right, of B responses.

    ends: [B, R] bool, True at the last token of each step that ends
    probabilities: [B, R] float32 at these, 0 elsewhere
    """

    ends: Tensor
    probabilities: Tensor

    def scores(self, aggregate: Aggregate) -> Tensor:
        """One score for each response, [B] from 0 to 1."""
        return solution_scores(self.probabilities, self.ends, self.ends, aggregate)


class StepScorer:
    """A process reward model as a frozen role, in micro-batches of so many responses.

    Steps are found by the separator that it was trained on, in the token ids that were sampled. So
    it must have the policy's own tokenizer: responses are not tokenised again.
    """

    def __init__(
        self, models: Models, directory: Path, tokenizer: PreTrainedTokenizerBase, micro_batch: int
    ) -> None:
        """Adds the role to `models`; raises ModelError for another tokenizer, and for no such model."""
        separator = separator_of(directory)
        own = load_tokenizer(directory)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ModelError(
                f"{directory}: its tokenizer is not the policy's; a process reward model reads the "
                "token ids that the policy sampled, so both must come from the same base model"
            )
        model = load_scalar_model(directory, models.engine.dtype)
        # the policy's own too: both come from the same base
        ends = end_ids(tokenizer, model.lm.generation_config)
        self._finder = StepFinder(tokenizer, separator, ends)
        self._pad_id = int(own.pad_token_id)
        self._models, self._micro_batch = models, micro_batch
        models.freeze(ROLE, model)

    @classmethod
    def load(cls, directory: Path, engine: Engine, micro_batch: int = 8) -> "StepScorer":
        """Outside of a training loop: with its own tokenizer."""
        # a stage that is off left no tokenizer either
        separator_of(directory)
        return cls(Models(engine, None), directory, load_tokenizer(directory), micro_batch)

    @torch.no_grad()
    def read(
        self, batch: TokenBatch, responses: Sequence[Ids], response_mask: Tensor
    ) -> StepProbabilities:
        """Score the steps of responses.

        batch: these with their prompts, [B, T], the response tokens its targets; response_mask: [B, R]
        """
        # 1. where steps end: in the response, and in the row
        ends = torch.zeros(response_mask.shape, dtype=torch.bool)
        for row, response in enumerate(responses):
            ends[row, self._finder.ends(response)] = True
        ends = ends.to(response_mask.device)
        places = scatter_to_mask(ends[response_mask], batch.target_mask)

        # 2. what the model says there
        logits = []
        parts = zip(
            batch.micro_batches(self._micro_batch), places.split(self._micro_batch), strict=True
        )
        for (part, own), counts in in_step(self._models.engine, list(parts)):
            read = self._models.scalars_at(ROLE, part, own[:, : part.width])
            if counts:
                logits.append(read)
        return StepProbabilities(ends, scatter_to_mask(torch.cat(logits).sigmoid(), ends))

    def best_of_n(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], n: int, aggregate: Aggregate = "min"
    ) -> list[int]:
        """The row of the best of each n responses that lie side by side; the first of equals."""
        device = self._models.language_model(ROLE).device
        batch = pad_responses(prompts, responses, self._pad_id).to(device)
        lengths = torch.tensor([len(response) for response in responses], device=device)
        mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
        scores = self.read(batch, responses, mask).scores(aggregate)
        rows: list[int] = best_of_n(scores, n).tolist()
        return rows
