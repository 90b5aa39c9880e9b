"""The gold reward model as judge: trained on preference pairs that PPO's reward model never saw."""

import math
from collections.abc import Sequence
from typing import Self

from rlhf.common.progress import Progress
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.types import Case, Facts, Preference, Verdict
from rlhf.models.scoring import ResponseScorer
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

    def __init__(self, scorer: ResponseScorer, tie_probability: float, batch_size: int) -> None:
        self._scorer = scorer
        self._tie_probability = tie_probability
        self._batch_size = batch_size
        # both orders and several comparisons ask about the same responses
        self._scores: dict[TokenPair, float] = {}

    @classmethod
    def load(cls, settings: Settings, workspace: Workspace, detail: str) -> Self:
        """Load `models/gold`; raises ModelError when the gold stage has not run."""
        engine = TorchEngine(settings.engine)
        scorer = ResponseScorer.load(workspace.model("gold"), engine)
        section = settings.evaluate
        return cls(scorer, section.tie_probability, section.generation.batch_size)

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
            scores = self._scorer.scores(prompts, responses)
            self._scores.update(zip(part, scores, strict=True))
            progress.advance(len(part))
        progress.close()


def _by_length(pair: TokenPair) -> tuple[int, TokenPair]:
    prompt, response = pair
    return len(prompt) + len(response), pair
