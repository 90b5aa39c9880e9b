"""The figures of an evaluation, in their structure: `metrics/evaluate_details.json`.

Readers take figures from here. The flat file for DVC and MLflow, `metrics/evaluate.json`, is made
from the same records by `flat_metrics.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np

from rlhf.common.metrics import Value
from rlhf.evaluation.agreement import Agreement, agreement
from rlhf.evaluation.comparisons import Comparison
from rlhf.evaluation.histograms import Histograms, shared_histograms
from rlhf.evaluation.length import length_controlled, longer_win_rate
from rlhf.evaluation.responses import EvaluationPrompt, Response, ResponsesByModel
from rlhf.evaluation.types import Facts, Judgement, Outcome
from rlhf.evaluation.win_rate import (
    WinRate,
    detectable_difference,
    points,
    prompts_needed,
    win_rates_by_kind,
)
from rlhf.rollout.diversity import distinct_2

# whose scores are drawn and averaged
_SCORING_JUDGE = "gold"
# kinds that have figures, if only nulls, whatever the prompts are
_KINDS = ("helpful", "harmless")
# a win rate so far from 1/2 is worth telling
_CLEAR_DIFFERENCE = 0.05
_NO_SHARES: dict[str, Value] = {field.name: None for field in fields(WinRate)}

Metrics = dict[str, Value]


# -- the records --


@dataclass(frozen=True)
class ComparisonSummary:
    """One pair of models by one judge.

    headline: the first pair of the settings by their first judge
    metrics: over all prompts, shares in [0, 1]; without any verdict the shares are null, and only
        `unjudged` stands beside them
    kinds: the shares of each kind of prompt
    score_difference: histograms by kind, of the gold model's comparisons
    """

    challenger: str
    baseline: str
    judge: str
    headline: bool
    metrics: Metrics
    kinds: dict[str, Metrics]
    score_difference: Histograms | None


@dataclass(frozen=True, kw_only=True)
class JudgeAgreement(Agreement):
    """How far two judges agree, over all pairs of models."""

    left: str
    right: str


@dataclass(frozen=True)
class ModelSummary:
    """One model's responses; those that are missing count in nothing but `missing`.

    response_length: mean, in tokens; finished: share of them that ended by themselves
    distinct_2: share of bigrams that are different; None without any bigram
    gold_score: mean, over the prompts that it was scored on; None where gold does not judge it
    """

    model: str
    missing: int
    response_length: float
    finished: float
    distinct_2: float | None
    gold_score: float | None


@dataclass(frozen=True)
class JudgeFacts:
    """What a judge reports of itself: what it cost, who voted."""

    judge: str
    facts: Facts


@dataclass(frozen=True)
class OpponentFacts:
    """What an opponent behind an endpoint cost."""

    opponent: str
    facts: Facts


@dataclass(frozen=True)
class EvaluationSummary:
    """All that was judged, in figures.

    comparisons: in the order of the settings, those of the first judge first
    judges, opponents: only those that report anything
    lengths: of each model's responses, in tokens; scores: the gold model's, by model
    """

    prompts: int
    comparisons: list[ComparisonSummary]
    agreement: list[JudgeAgreement]
    models: list[ModelSummary]
    judges: list[JudgeFacts]
    opponents: list[OpponentFacts]
    lengths: Histograms
    scores: Histograms

    @property
    def headline(self) -> ComparisonSummary:
        """The first pair of models by the first judge."""
        return self.comparisons[0]

    def as_json(self) -> dict[str, Any]:
        """As `metrics/evaluate_details.json` has it."""
        return asdict(self)


# -- from what was judged --


def summarise(
    comparisons: Sequence[Comparison],
    prompts: Sequence[EvaluationPrompt],
    responses: ResponsesByModel,
    seed: int,
    judge_facts: Mapping[str, Facts] | None = None,
    opponent_facts: Mapping[str, Facts] | None = None,
) -> EvaluationSummary:
    """Draw the figures from at least one comparison; the first one is the headline."""
    scores = gold_scores(comparisons)
    summaries = []
    for comparison in comparisons:
        headline = comparison is comparisons[0]
        summaries.append(summarise_comparison(comparison, prompts, responses, seed, headline))

    models = []
    lengths = {}
    for name, every in responses.items():
        models.append(summarise_model(name, every, scores.get(name, [])))
        lengths[name] = [float(len(response.ids)) for response in _present(every)]

    judges = [JudgeFacts(name, facts) for name, facts in (judge_facts or {}).items()]
    opponents = [OpponentFacts(name, facts) for name, facts in (opponent_facts or {}).items()]
    return EvaluationSummary(
        prompts=len(prompts),
        comparisons=summaries,
        agreement=_agreements(comparisons),
        models=models,
        judges=[judge for judge in judges if judge.facts],
        opponents=[opponent for opponent in opponents if opponent.facts],
        lengths=shared_histograms(lengths),
        scores=shared_histograms(scores),
    )


# -- one comparison --


def summarise_comparison(
    comparison: Comparison,
    prompts: Sequence[EvaluationPrompt],
    responses: ResponsesByModel,
    seed: int,
    headline: bool,
) -> ComparisonSummary:
    """One pair of models by one judge; of what the judge gave no verdict on, only the number."""
    # 1. the prompts that have an outcome
    judged: list[int] = []
    outcomes: list[Outcome] = []
    for index, outcome in enumerate(comparison.outcomes):
        if outcome is not None:
            judged.append(index)
            outcomes.append(outcome)

    # 2. metrics over all of them, and by kind
    metrics: Metrics = {"unjudged": len(prompts) - len(judged)}
    kinds: dict[str, Metrics] = {kind: dict(_NO_SHARES) for kind in _KINDS}
    if judged:
        shares = win_rates_by_kind(outcomes, [prompts[index].kind for index in judged], seed)
        metrics |= asdict(shares.pop("all"))
        metrics |= _length_and_power(comparison, judged, outcomes, responses, seed)
        metrics |= position_bias(comparison.judgements)
        kinds |= {kind: asdict(rates) for kind, rates in shares.items()}
    else:
        metrics |= _NO_SHARES

    return ComparisonSummary(
        challenger=comparison.challenger,
        baseline=comparison.baseline,
        judge=comparison.judge,
        headline=headline,
        metrics=metrics,
        kinds=kinds,
        score_difference=_score_differences(comparison, prompts),
    )


def _length_and_power(
    comparison: Comparison,
    judged: Sequence[int],
    outcomes: Sequence[Outcome],
    responses: ResponsesByModel,
    seed: int,
) -> Metrics:
    """What length does to the win rate, and what so many prompts can show."""
    challenger, baseline = responses[comparison.challenger], responses[comparison.baseline]
    lengths_challenger = [len(challenger[index].ids) for index in judged]
    lengths_baseline = [len(baseline[index].ids) for index in judged]
    values = points(outcomes)
    controlled = length_controlled(values, lengths_challenger, lengths_baseline, seed)
    return {
        "win_rate_length_controlled": controlled.win_rate if controlled else None,
        "win_rate_length_controlled_low": controlled.low if controlled else None,
        "win_rate_length_controlled_high": controlled.high if controlled else None,
        "longer_win_rate": longer_win_rate(outcomes, lengths_challenger, lengths_baseline),
        "detectable_difference": detectable_difference(values),
        "prompts_for_5_points": prompts_needed(values, _CLEAR_DIFFERENCE),
    }


def position_bias(judgements: Iterable[Judgement]) -> Metrics:
    """What the order in which responses are shown does; None without any verdict.

    orders_agree: share of pairs judged alike in both orders
    prefers_first_shown: of all decided verdicts, the share for the response shown first; 1/2 is no
        bias
    """
    alike: list[bool] = []
    for_first: list[bool] = []
    for judgement in judgements:
        if judgement.in_order is None or judgement.swapped is None:
            continue
        alike.append(judgement.in_order == judgement.swapped)
        # shown first: the challenger in order, the baseline when swapped
        if judgement.in_order != "tie":
            for_first.append(judgement.in_order == "win")
        if judgement.swapped != "tie":
            for_first.append(judgement.swapped == "lose")
    return {
        "orders_agree": sum(alike) / len(alike) if alike else None,
        "prefers_first_shown": sum(for_first) / len(for_first) if for_first else None,
    }


def _score_differences(
    comparison: Comparison, prompts: Sequence[EvaluationPrompt]
) -> Histograms | None:
    if comparison.judge != _SCORING_JUDGE:
        return None
    by_kind: dict[str, list[float]] = {}
    for prompt, judgement in zip(prompts, comparison.judgements, strict=True):
        first, second = judgement.score_first, judgement.score_second
        # a prompt that one of the two did not answer has no scores
        if first is not None and second is not None:
            by_kind.setdefault(prompt.kind, []).append(first - second)
    return shared_histograms(by_kind)


# -- judges and models --


def _agreements(comparisons: Sequence[Comparison]) -> list[JudgeAgreement]:
    # of a judge, over all pairs of models: every judge compares the same ones
    outcomes: dict[str, list[Outcome | None]] = {}
    for comparison in comparisons:
        outcomes.setdefault(comparison.judge, []).extend(comparison.outcomes)
    agreements = []
    for left, right in combinations(outcomes, 2):
        metrics = asdict(agreement(outcomes[left], outcomes[right]))
        agreements.append(JudgeAgreement(**metrics, left=left, right=right))
    return agreements


def summarise_model(name: str, every: Sequence[Response], scores: Sequence[float]) -> ModelSummary:
    """One model's responses and the gold model's scores of them; at least one must be there."""
    responses = _present(every)
    return ModelSummary(
        model=name,
        missing=len(every) - len(responses),
        response_length=float(np.mean([len(response.ids) for response in responses])),
        finished=float(np.mean([response.finished for response in responses])),
        distinct_2=distinct_2([response.ids for response in responses]),
        gold_score=float(np.mean(scores)) if scores else None,
    )


def gold_scores(comparisons: Sequence[Comparison]) -> dict[str, list[float]]:
    """The gold model's scores of each model's responses, in the prompts' order.

    One a prompt that the model was scored on in any comparison: a score is the same whatever the
    opponent. Models without a score are left out.
    """
    by_model: dict[str, dict[int, float]] = {}
    for comparison in comparisons:
        if comparison.judge != _SCORING_JUDGE:
            continue
        for index, judgement in enumerate(comparison.judgements):
            if judgement.score_first is not None:
                by_model.setdefault(comparison.challenger, {})[index] = judgement.score_first
            if judgement.score_second is not None:
                by_model.setdefault(comparison.baseline, {})[index] = judgement.score_second

    scores = {}
    for name, by_index in by_model.items():
        scores[name] = [by_index[index] for index in sorted(by_index)]
    return scores


def _present(responses: Sequence[Response]) -> list[Response]:
    return [response for response in responses if not response.missing]
