"""Which dialogues the page shows side by side: best gains, worst losses and random ones."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.core.seeds import derive_seed
from rlhf.report.inputs import ComparisonRow

# the order in which models come from each other; opponents follow by name
_MODEL_ORDER = ("base", "sft", "policy")


@dataclass(frozen=True)
class ModelResponse:
    """One model's response; `score` is the judge's, None where it gives none."""

    model: str
    text: str
    score: float | None


@dataclass(frozen=True)
class SelectedDialogue:
    """One prompt with the responses of all models, and the reason why it is shown.

    reason: best gain, worst loss or random; verdict: win, tie, lose or no verdict
    """

    reason: str
    kind: str
    verdict: str
    messages: list[dict[str, str]]
    responses: list[ModelResponse]


def select_dialogues(
    comparisons: Sequence[ComparisonRow], count: int, seed: int
) -> list[SelectedDialogue]:
    """Select `count` prompts of the headline comparison: a third each of gains, losses and random.

    The headline is the first pair of models by the first judge. Gains are the wins with the
    largest score difference, losses likewise. Where there are too few, random prompts fill up.
    No prompt is shown twice, and the order of the rows does not matter.
    """
    if not comparisons:
        return []
    first = comparisons[0]
    judged = [row for row in comparisons if row.judge == first.judge]
    headline = [row for row in judged if _models(row) == _models(first)]

    # 1. the largest differences
    ranked = sorted(headline, key=lambda row: (-_gain(row), str(row.id)))
    gains = [row for row in ranked if row.verdict == "win"][: count // 3]
    losses = [row for row in reversed(ranked) if row.verdict == "lose"][: count // 3]

    # 2. random ones among the rest, in an order that only the seed decides
    selected_ids = {row.id for row in (*gains, *losses)}
    rest = sorted(
        (row for row in headline if row.id not in selected_ids), key=lambda row: str(row.id)
    )
    random.Random(derive_seed(seed, "report", "dialogues")).shuffle(rest)
    fill = rest[: count - len(gains) - len(losses)]

    # 3. with the responses of every model that answered the prompt
    responses = _responses_by_prompt(judged)
    return [
        SelectedDialogue(
            reason, row.kind, row.verdict or "no verdict", row.messages, responses[row.id]
        )
        for reason, rows in (("best gain", gains), ("worst loss", losses), ("random", fill))
        for row in rows
    ]


def _models(row: ComparisonRow) -> tuple[str, str]:
    return (row.challenger, row.baseline)


def _gain(row: ComparisonRow) -> float:
    """By how much the challenger scores higher; 0 for a judge without scores."""
    if row.score_challenger is None or row.score_baseline is None:
        return 0.0
    return row.score_challenger - row.score_baseline


def _responses_by_prompt(comparisons: Sequence[ComparisonRow]) -> dict[str, list[ModelResponse]]:
    """Responses by id of the prompt: base, sft, policy, then other models by name."""
    by_prompt: dict[str, dict[str, ModelResponse]] = {}
    for row in comparisons:
        # a model that is in several comparisons gave the same response in each
        by_model = by_prompt.setdefault(row.id, {})
        for response in (
            ModelResponse(row.challenger, row.response_challenger, row.score_challenger),
            ModelResponse(row.baseline, row.response_baseline, row.score_baseline),
        ):
            by_model.setdefault(response.model, response)
    return {
        prompt: sorted(by_model.values(), key=_model_order)
        for prompt, by_model in by_prompt.items()
    }


def _model_order(response: ModelResponse) -> tuple[int, str]:
    known = response.model in _MODEL_ORDER
    place = _MODEL_ORDER.index(response.model) if known else len(_MODEL_ORDER)
    return (place, response.model)
