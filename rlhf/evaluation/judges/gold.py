"""The gold reward model as judge: trained on preference pairs that PPO's reward model never saw.

With `evaluate.gold: hf:DIRECTORY` it is somebody else's, which reads texts by its own tokenizer.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from rlhf.common.address import Address
from rlhf.common.progress import Progress
from rlhf.core.tokenizers import end_ids, read_tokenizer
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.types import Case, Facts, Preference, Verdict
from rlhf.models.classifier import Answered, Classifier
from rlhf.models.scoring import ResponseScorer
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

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


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer that is to be scored; its tokens tell it from others, the texts are the same as they."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    messages: tuple[Mapping[str, str], ...] = field(compare=False)
    text: str = field(compare=False)


# A score each, None for what it cannot score.
Score = Callable[[Sequence[ScoredAnswer]], Sequence[float | None]]


class GoldJudge:
    """Scores each response once, whatever the order or the comparison that it appears in."""

    name = "gold"

    def __init__(self, score: Score, tie_probability: float, batch_size: int) -> None:
        self._score_batch = score
        self._tie_probability = tie_probability
        self._batch_size = batch_size
        # both orders and several comparisons ask about the same responses
        self._scores: dict[ScoredAnswer, float | None] = {}

    @classmethod
    def load(cls, settings: Settings, workspace: Workspace, detail: str) -> Self:
        """Load `models/gold`, or what `evaluate.gold` names; raises ModelError where there is none."""
        engine, section = TorchEngine(settings.engine), settings.evaluate
        batch = section.generation.batch_size
        if section.gold is None:
            scorer = ResponseScorer.load(workspace.model("gold"), engine)
            return cls(by_tokens(scorer), section.tie_probability, batch)
        directory = workspace.root / Address.parse(section.gold).path
        classifier = Classifier.load(directory, engine, batch)
        ends = _ends(workspace.model("base"))
        return cls(by_text(classifier, ends), section.tie_probability, batch)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Compare gold scores; both orders agree by construction."""
        self._score({answer for case in cases for answer in _answers(case)})
        return [self._verdict(case) for case in cases]

    def facts(self) -> Facts:
        """Nothing: how good it is stands in the metrics of the stage that trained it."""
        return {}

    def _verdict(self, case: Case) -> Verdict:
        first, second = (self._scores[answer] for answer in _answers(case))
        # a text that is longer than a classifier's window is not judged
        if first is None or second is None:
            return Verdict(None, first, second)
        return Verdict(preference(first, second, self._tie_probability), first, second)

    def _score(self, answers: set[ScoredAnswer]) -> None:
        """Score what has no score yet, in batches of near-equal length."""
        new = sorted(answers - self._scores.keys(), key=_by_length)
        progress = Progress("evaluate: gold scores", len(new), show=bool(new))
        for start in range(0, len(new), self._batch_size):
            part = new[start : start + self._batch_size]
            self._scores.update(zip(part, self._score_batch(part), strict=True))
            progress.advance(len(part))
        progress.close()


def by_tokens(scorer: ResponseScorer) -> Score:
    """Scores of a reward model of ours, of the very tokens that were sampled."""

    def score(answers: Sequence[ScoredAnswer]) -> list[float]:
        prompts = [answer.prompt_ids for answer in answers]
        return scorer.scores(prompts, [answer.ids for answer in answers])

    return score


def by_text(classifier: Classifier, ends: Collection[int]) -> Score:
    """Scores of a classifier, of the texts.

    ends: our tokens that end a response; one that was cut stays open, as where the policy is trained
    """

    def score(answers: Sequence[ScoredAnswer]) -> list[float | None]:
        return classifier.scores(
            [
                Answered(answer.messages, answer.text, finished=bool({*answer.ids[-1:]} & {*ends}))
                for answer in answers
            ]
        )

    return score


def _ends(base: Path) -> tuple[int, ...]:
    named = (
        GenerationConfig.from_pretrained(base)
        if (base / GENERATION_CONFIG_NAME).is_file()
        else None
    )
    return end_ids(read_tokenizer(base), named)


def _answers(case: Case) -> tuple[ScoredAnswer, ScoredAnswer]:
    return (
        ScoredAnswer(case.prompt_ids, case.ids_first, case.messages, case.response_first),
        ScoredAnswer(case.prompt_ids, case.ids_second, case.messages, case.response_second),
    )


def _by_length(answer: ScoredAnswer) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return len(answer.prompt_ids) + len(answer.ids), answer.prompt_ids, answer.ids
