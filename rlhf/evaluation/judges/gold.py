"""The gold reward model as judge: trained on preference pairs that PPO's reward model never saw."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.common.progress import Progress
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.types import Case, Facts, Preference, Verdict
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

# a prompt and a response
TokenPair = tuple[tuple[int, ...], tuple[int, ...]]
# beyond this exp overflows
_LARGEST_DIFFERENCE = 700.0


def preference(score_first: float, score_second: float, tie_probability: float) -> Preference:
    """The response with the higher score, or a tie.

    Decided only if sigmoid(|score difference|), the Bradley-Terry probability, reaches
    `tie_probability`.
    """
    difference = score_first - score_second
    distance = min(abs(difference), _LARGEST_DIFFERENCE)
    probability = 1 / (1 + math.exp(-distance))
    if difference == 0 or probability < tie_probability:
        return "tie"
    return "first" if difference > 0 else "second"


class GoldJudge:
    """Scores each response once, whatever the order or the comparison that it appears in."""

    name = "gold"

    def __init__(
        self,
        model: ScalarModel,
        pad_id: int,
        tie_probability: float,
        batch_size: int,
        engine: TorchEngine,
    ) -> None:
        # in place
        engine.frozen(model)
        self._model = model
        self._pad_id = pad_id
        self._tie_probability = tie_probability
        self._batch_size = batch_size
        self._engine = engine
        # both orders and several comparisons ask about the same responses
        self._scores: dict[TokenPair, float] = {}

    @classmethod
    def load(cls, settings: Settings, workspace: Workspace, detail: str) -> Self:
        """Load `models/gold`; raises ModelError when the gold stage has not run."""
        model = load_scalar_model(workspace.model("gold"))
        # padding is masked: any token would do
        pad_id = int(model.lm.config.pad_token_id or 0)
        return cls(
            model,
            pad_id,
            settings.evaluate.tie_probability,
            settings.evaluate.generation.batch_size,
            TorchEngine(settings.engine),
        )

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Compare gold scores; both orders agree by construction."""
        pairs: set[TokenPair] = set()
        for case in cases:
            pairs |= {(case.prompt_ids, case.ids_first), (case.prompt_ids, case.ids_second)}
        self._score(pairs)
        return [self._verdict(case) for case in cases]

    def facts(self) -> Facts:
        """Nothing: how good it is stands in the metrics of the stage that trained it."""
        return {}

    def _verdict(self, case: Case) -> Verdict:
        first = self._scores[case.prompt_ids, case.ids_first]
        second = self._scores[case.prompt_ids, case.ids_second]
        return Verdict(preference(first, second, self._tie_probability), first, second)

    def _score(self, pairs: set[TokenPair]) -> None:
        """Score what has no score yet, in batches of near-equal length."""
        new = sorted(pairs - self._scores.keys(), key=_by_length)
        progress = Progress("evaluate: gold scores", len(new), show=bool(new))
        for start in range(0, len(new), self._batch_size):
            part = new[start : start + self._batch_size]
            prompts = [prompt for prompt, _ in part]
            responses = [response for _, response in part]
            scores = self._batch_scores(pad_responses(prompts, responses, self._pad_id))
            self._scores.update(zip(part, scores.tolist(), strict=True))
            progress.advance(len(part))
        progress.close()

    # the one call of the model
    def _batch_scores(self, batch: TokenBatch) -> Tensor:
        """The model's score of each row, [B]."""
        with torch.inference_mode(), self._engine.autocast():
            return self._model.scores(batch.to(self._engine.device))


def _by_length(pair: TokenPair) -> tuple[int, TokenPair]:
    prompt, response = pair
    return len(prompt) + len(response), pair
