"""What is drawn from judged comparisons: flat metrics, histograms, and how far the judges agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np

from rlhf.common.metrics import Value
from rlhf.evaluation.agreement import agreement
from rlhf.evaluation.length import length_controlled
from rlhf.evaluation.measures import edges_over, histogram, longer_win_rate
from rlhf.evaluation.responses import Prompt, Response
from rlhf.evaluation.types import Judgement, Outcome
from rlhf.evaluation.winrate import (
    WinRate,
    detectable_difference,
    points,
    prompts_needed,
    win_rates_by_kind,
)
from rlhf.rollout.diversity import distinct_2

_SHARES = tuple(field.name for field in fields(WinRate))
_CLEAR = 0.05  # from 1/2: a difference worth telling
Answers = Mapping[str, Sequence[Response]]


@dataclass(frozen=True)
class Comparison:
    """Two models' responses to the same prompts and what one judge said of each, in the prompts' order."""

    challenger: str
    baseline: str
    judge: str
    judgements: list[Judgement]

    @property
    def name(self) -> str:
        """For keys of metrics."""
        return f"{self.challenger}_vs_{self.baseline}"

    @property
    def outcomes(self) -> list[Outcome | None]:
        """None where the judge gave no verdict."""
        return [judgement.outcome for judgement in self.judgements]


def summary(
    comparisons: Sequence[Comparison], prompts: Sequence[Prompt], answers: Answers, seed: int
) -> dict[str, Value]:
    """Flat metrics: shares in [0, 1], lengths in tokens.

    The first pair of models and the first judge carry no prefix in the keys, others `<challenger>_vs_<baseline>_` and
    `<judge>_`; a kind that does not occur among the prompts has no keys. Agreement is over all pairs of models.
    """
    headline = comparisons[0]
    flat: dict[str, Value] = {
        "prompts": len(prompts),
        "compared": f"{headline.challenger} with {headline.baseline}",
        "judge": headline.judge,
    }
    for item in comparisons:
        pair = "" if item.name == headline.name else f"{item.name}_"
        prefix = pair if item.judge == headline.judge else f"{pair}{item.judge}_"
        flat |= {
            f"{prefix}{key}": value
            for key, value in comparison_summary(item, prompts, answers, seed).items()
        }
    for left, right in combinations(dict.fromkeys(item.judge for item in comparisons), 2):
        found = agreement(_outcomes_of(left, comparisons), _outcomes_of(right, comparisons))
        flat |= {f"agreement_{left}_{right}": found.accuracy, f"kappa_{left}_{right}": found.kappa}
    scores = _scores(_by_gold(comparisons))
    for name, every in answers.items():
        responses = [response for response in every if not response.missing]
        flat[f"missing_{name}"] = len(every) - len(responses)
        flat[f"response_length_{name}"] = float(
            np.mean([len(response.ids) for response in responses])
        )
        flat[f"finished_{name}"] = float(np.mean([response.finished for response in responses]))
        flat[f"distinct_2_{name}"] = distinct_2([response.ids for response in responses])
        flat[f"gold_score_{name}"] = float(np.mean(scores[name])) if scores.get(name) else None
    return flat


def comparison_summary(
    comparison: Comparison, prompts: Sequence[Prompt], answers: Answers, seed: int
) -> dict[str, Value]:
    """One pair of models by one judge; of what the judge gave no verdict on, only the number."""
    values: dict[str, Value] = {
        f"{key}_{kind}": None for kind in ("helpful", "harmless") for key in _SHARES
    }
    judged = [
        (place, outcome) for place, outcome in enumerate(comparison.outcomes) if outcome is not None
    ]
    values["unjudged"] = len(prompts) - len(judged)
    if not judged:
        return {key: None for key in _SHARES} | values
    places, outcomes = [place for place, _ in judged], [outcome for _, outcome in judged]
    kinds = [prompts[place].kind for place in places]
    for kind, shares in win_rates_by_kind(outcomes, kinds, seed).items():
        suffix = "" if kind == "all" else f"_{kind}"
        values |= {f"{key}{suffix}": value for key, value in asdict(shares).items()}
    mine, theirs = (
        [len(answers[name][place].ids) for place in places]
        for name in (comparison.challenger, comparison.baseline)
    )
    numbers = points(outcomes)
    controlled = length_controlled(numbers, mine, theirs, seed)
    return {
        **values,
        "win_rate_length_controlled": controlled.win_rate if controlled else None,
        "win_rate_length_controlled_low": controlled.low if controlled else None,
        "win_rate_length_controlled_high": controlled.high if controlled else None,
        "longer_win_rate": longer_win_rate(outcomes, mine, theirs),
        "detectable_difference": detectable_difference(numbers),
        "prompts_for_5_points": prompts_needed(numbers, _CLEAR),
        **position_bias(comparison.judgements),
    }


def position_bias(judgements: Iterable[Judgement]) -> dict[str, Value]:
    """`orders_agree`: share of pairs judged alike in both orders; `prefers_first_shown`: of all decided verdicts, those for
    the response shown first (1/2: no bias). None without any."""
    both = [
        (item.in_order, item.swapped)
        for item in judgements
        if item.in_order is not None and item.swapped is not None
    ]
    for_first = [in_order == "win" for in_order, _ in both if in_order != "tie"]
    for_first += [swapped == "lose" for _, swapped in both if swapped != "tie"]
    return {
        "orders_agree": sum(left == right for left, right in both) / len(both) if both else None,
        "prefers_first_shown": sum(for_first) / len(for_first) if for_first else None,
    }


def details(
    comparisons: Sequence[Comparison], prompts: Sequence[Prompt], answers: Answers
) -> dict[str, Any]:
    """For the report: score differences by kind and comparison, lengths and scores by model, agreement of the judges."""
    scored = _by_gold(comparisons)
    scores = {name: values for name, values in _scores(scored).items() if values}
    lengths = {
        name: [float(len(each.ids)) for each in responses if not each.missing]
        for name, responses in answers.items()
    }
    judges = list(dict.fromkeys(item.judge for item in comparisons))
    return {
        "comparisons": [_score_differences(comparison, prompts) for comparison in scored],
        "lengths": _shared_histograms(lengths),
        "scores": _shared_histograms(scores),
        "agreement": [
            {"left": left, "right": right}
            | asdict(agreement(_outcomes_of(left, comparisons), _outcomes_of(right, comparisons)))
            for left, right in combinations(judges, 2)
        ],
    }


def _outcomes_of(judge: str, comparisons: Sequence[Comparison]) -> list[Outcome | None]:
    return [outcome for item in comparisons if item.judge == judge for outcome in item.outcomes]


def _by_gold(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [item for item in comparisons if item.judge == "gold"]


def _score_differences(comparison: Comparison, prompts: Sequence[Prompt]) -> dict[str, Any]:
    differences: dict[str, list[float]] = {}
    for prompt, judgement in zip(prompts, comparison.judgements, strict=True):
        if judgement.score_first is not None and judgement.score_second is not None:
            differences.setdefault(prompt.kind, []).append(
                judgement.score_first - judgement.score_second
            )
    names = {
        "challenger": comparison.challenger,
        "baseline": comparison.baseline,
        "judge": comparison.judge,
    }
    return {**names, "score_difference": _shared_histograms(differences)}


def _shared_histograms(groups: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Histograms over common edges: {"edges": [...], "counts": {group: [...]}}; empty without values."""
    values = [value for group in groups.values() for value in group]
    if not values:
        return {"edges": [], "counts": {}}
    edges = edges_over(values)
    return {
        "edges": edges.tolist(),
        "counts": {name: histogram(group, edges) for name, group in sorted(groups.items())},
    }


def _scores(comparisons: Sequence[Comparison]) -> dict[str, list[float]]:
    """The judge's scores of each model's responses, one a prompt that it was scored on in any of the comparisons."""
    scores: dict[str, dict[int, float]] = {}
    for item in comparisons:
        for place, judgement in enumerate(item.judgements):
            for name, score in (
                (item.challenger, judgement.score_first),
                (item.baseline, judgement.score_second),
            ):
                if score is not None:  # the same whatever the opponent
                    scores.setdefault(name, {})[place] = score
    return {
        name: [score for _, score in sorted(by_place.items())] for name, by_place in scores.items()
    }
