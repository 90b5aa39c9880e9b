"""The gold reward model as judge: trained on preference pairs that the reward model of PPO never saw."""

import math
from collections.abc import Sequence

import torch

from rlhf.batches.padding import pad_responses
from rlhf.common.progress import Progress
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.types import Case, Preference, Verdict
from rlhf.models.heads import ScalarModel, load_scalar_model, response_scores
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Ids = tuple[int, ...]


def preference(score_first: float, score_second: float, tie_probability: float) -> Preference:
    """The response with the higher score, or a tie.

    Decided only if sigmoid(|score difference|), the Bradley-Terry probability, reaches `tie_probability`.
    """
    difference = score_first - score_second
    if difference == 0 or 1 / (1 + math.exp(-min(abs(difference), 700.0))) < tie_probability:
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
        engine.frozen(model)  # in place
        self._model = model
        self._pad_id, self._tie_probability, self._batch_size = pad_id, tie_probability, batch_size
        self._engine = engine
        self._scores: dict[tuple[Ids, Ids], float] = {}

    @classmethod
    def load(cls, settings: Settings, workspace: Workspace) -> "GoldJudge":
        """Load `models/gold`; raises ModelError when the gold stage has not run."""
        model = load_scalar_model(workspace.model("gold"))
        pad_id = int(model.lm.config.pad_token_id or 0)  # padding is masked: any token would do
        return cls(
            model,
            pad_id,
            settings.evaluate.tie_probability,
            settings.evaluate.generation.batch_size,
            TorchEngine(settings.engine),
        )

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Compare gold scores; both orders agree by construction."""
        self._score(
            [(case.prompt_ids, ids) for case in cases for ids in (case.ids_first, case.ids_second)],
        )
        return [self._verdict(case) for case in cases]

    def facts(self) -> dict[str, float | int | None]:
        """Nothing: how good it is stands in the metrics of the stage that trained it."""
        return {}

    def _verdict(self, case: Case) -> Verdict:
        first = self._scores[case.prompt_ids, case.ids_first]
        second = self._scores[case.prompt_ids, case.ids_second]
        return Verdict(preference(first, second, self._tie_probability), first, second)

    def _score(self, pairs: Sequence[tuple[Ids, Ids]]) -> None:
        new = sorted(
            {pair for pair in pairs if pair not in self._scores},
            key=lambda pair: (len(pair[0]) + len(pair[1]), pair),
        )
        progress = Progress("evaluate: gold scores", len(new), show=bool(new))
        for start in range(0, len(new), self._batch_size):
            part = new[start : start + self._batch_size]
            batch = pad_responses(
                [prompt for prompt, _ in part], [response for _, response in part], self._pad_id
            )
            with torch.inference_mode(), self._engine.autocast():
                scores = response_scores(self._model, batch.to(self._engine.device))
            self._scores.update(zip(part, scores.tolist(), strict=True))
            progress.advance(len(part))
        progress.close()
