"""Scoring responses with a reward model, outside of a training loop: judges, studies, chat."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf.batches.padding import Ids, pad_responses
from rlhf.engine import Engine
from rlhf.models.heads import ScalarModel, load_scalar_model, response_scores


@dataclass(frozen=True)
class ResponseScorer:
    """A frozen reward model that scores token ids."""

    model: ScalarModel
    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    @classmethod
    def load(cls, directory: Path, engine: Engine, *, unit_scale: bool = False) -> "ResponseScorer":
        """Read a reward model in the engine's precision; `unit_scale` as in `load_scalar_model`."""
        model = engine.frozen(load_scalar_model(directory, unit_scale=unit_scale))
        return cls(model, engine.device, engine.autocast)

    @property
    def pad_id(self) -> int:
        """What to pad with: masked out, any token would do."""
        return int(self.model.lm.config.pad_token_id or 0)

    @torch.no_grad()
    def scores(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[float]:
        """The score of each response to its prompt; all in one forward pass."""
        batch = pad_responses(prompts, responses, self.pad_id).to(self.device)
        with self.autocast():
            scores: list[float] = response_scores(self.model, batch).tolist()
        return scores
