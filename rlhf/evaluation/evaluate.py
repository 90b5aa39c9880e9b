"""The evaluate stage: every model answers the held-out prompts once, a judge compares, win rates are written."""

import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.judges import Case, Judgement, judge_both_orders, make_judge
from rlhf.evaluation.measures import edges_over, histogram, longer_win_rate
from rlhf.evaluation.responses import Prompt, Response, generate_responses, read_prompts
from rlhf.evaluation.winrate import WinRate, win_rates_by_kind
from rlhf.rollout.diversity import distinct_2
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

_SHARES = tuple(field.name for field in fields(WinRate))
Answers = Mapping[str, Sequence[Response]]


@dataclass(frozen=True)
class Comparison:
    """Two models' responses to the same prompts and what the judge said of each, in the prompts' order."""

    challenger: str
    baseline: str
    judge: str
    judgements: list[Judgement]

    @property
    def name(self) -> str:
        """For keys of metrics."""
        return f"{self.challenger}_vs_{self.baseline}"


def evaluate(settings: Settings, workspace: Workspace) -> None:
    """Write `data/evaluation/comparisons.parquet`, `metrics/evaluate.json` and `metrics/evaluate_details.json`.

    Models are in memory one at a time. The first comparison of the settings is the headline, its keys unprefixed.
    """
    began = time.monotonic()
    engine = TorchEngine(settings.engine)

    # 1. every model that takes part answers every held-out prompt
    prompts = read_prompts(workspace)
    answers: dict[str, list[Response]] = {}
    for name in dict.fromkeys(name for pair in settings.evaluate.comparisons for name in pair):
        generation = settings.evaluate.generation
        answers[name] = generate_responses(workspace.model(name), prompts, generation, engine, settings.seed)
        gc.collect()  # the model's memory before the next one is loaded
    generated = time.monotonic()

    # 2. the judge compares each pair in both orders
    judge = make_judge("gold", settings, workspace)
    comparisons = [
        Comparison(
            challenger,
            baseline,
            judge.name,
            judge_both_orders(judge, make_cases(prompts, answers[challenger], answers[baseline])),
        )
        for challenger, baseline in settings.evaluate.comparisons
    ]

    # 3. what was said and judged, then the numbers drawn from it
    with staged_directory(workspace.comparisons.parent) as directory:
        table = pd.concat([comparison_table(item, prompts, answers) for item in comparisons], ignore_index=True)
        table.to_parquet(directory / workspace.comparisons.name, index=False)
    write_json(workspace.details("evaluate"), details(comparisons, prompts, answers))
    tokens = sum(len(response.ids) for responses in answers.values() for response in responses)
    timings = {
        "seconds": time.monotonic() - began,
        "generation_tokens_per_second": tokens / max(generated - began, 1e-9),
    }
    write_summary(workspace.metrics("evaluate"), summary(comparisons, prompts, answers, settings.seed) | timings)


def make_cases(prompts: Sequence[Prompt], challenger: Sequence[Response], baseline: Sequence[Response]) -> list[Case]:
    """Cases with the challenger first; the models' names are left out."""
    return [
        Case(prompt.id, prompt.messages, first.text, second.text, prompt.ids, first.ids, second.ids)
        for prompt, first, second in zip(prompts, challenger, baseline, strict=True)
    ]


def comparison_table(comparison: Comparison, prompts: Sequence[Prompt], answers: Answers) -> pd.DataFrame:
    """One row a prompt; verdicts from the challenger's view, `verdict_second` with the baseline shown first."""
    rows = zip(
        prompts, answers[comparison.challenger], answers[comparison.baseline], comparison.judgements, strict=True
    )
    return pd.DataFrame(
        [
            {
                "id": prompt.id,
                "kind": prompt.kind,
                "challenger": comparison.challenger,
                "baseline": comparison.baseline,
                "judge": comparison.judge,
                "prompt": prompt.messages[-1]["content"],
                "messages": json.dumps(prompt.messages, ensure_ascii=False),
                "response_challenger": challenger.text,
                "response_baseline": baseline.text,
                "length_challenger": len(challenger.ids),
                "length_baseline": len(baseline.ids),
                "score_challenger": judgement.score_first,
                "score_baseline": judgement.score_second,
                "verdict_first": judgement.in_order,
                "verdict_second": judgement.swapped,
                "verdict": judgement.outcome,
            }
            for prompt, challenger, baseline, judgement in rows
        ]
    )


def summary(
    comparisons: Sequence[Comparison], prompts: Sequence[Prompt], answers: Answers, seed: int
) -> dict[str, Value]:
    """Flat metrics: shares in [0, 1], lengths in tokens. The first comparison's keys carry no prefix, and a kind that
    does not occur among the prompts has no keys."""
    flat: dict[str, Value] = {"prompts": len(prompts), "judge": comparisons[0].judge}
    for number, comparison in enumerate(comparisons):
        prefix = "" if number == 0 else f"{comparison.name}_"
        flat |= {
            f"{prefix}{key}": value for key, value in _comparison_summary(comparison, prompts, answers, seed).items()
        }
    scores = _scores(comparisons)
    for name, responses in answers.items():
        lengths = [len(response.ids) for response in responses]
        flat[f"response_length_{name}"] = float(np.mean(lengths))
        flat[f"finished_{name}"] = float(np.mean([response.finished for response in responses]))
        flat[f"distinct_2_{name}"] = distinct_2([response.ids for response in responses])
        flat[f"gold_score_{name}"] = float(np.mean(scores[name])) if scores[name] else None
    return flat


def _comparison_summary(
    comparison: Comparison, prompts: Sequence[Prompt], answers: Answers, seed: int
) -> dict[str, Value]:
    outcomes = [judgement.outcome for judgement in comparison.judgements]
    values: dict[str, Value] = {f"{key}_{kind}": None for kind in ("helpful", "harmless") for key in _SHARES}
    for kind, shares in win_rates_by_kind(outcomes, [prompt.kind for prompt in prompts], seed).items():
        suffix = "" if kind == "all" else f"_{kind}"
        values |= {f"{key}{suffix}": value for key, value in asdict(shares).items()}
    agreed = [judgement.in_order == judgement.swapped for judgement in comparison.judgements]
    values["orders_agree"] = float(np.mean(agreed))
    longer = longer_win_rate(
        outcomes, *(_lengths(answers[name]) for name in (comparison.challenger, comparison.baseline))
    )
    return {**values, "longer_win_rate": longer}


def details(comparisons: Sequence[Comparison], prompts: Sequence[Prompt], answers: Answers) -> dict[str, Any]:
    """Histograms for the report: score differences by kind and comparison, lengths and scores by model."""
    scores = {name: values for name, values in _scores(comparisons).items() if values}
    lengths = {name: [float(n) for n in _lengths(responses)] for name, responses in answers.items()}
    return {
        "comparisons": [_score_differences(comparison, prompts) for comparison in comparisons],
        "lengths": _shared_histograms(lengths),
        "scores": _shared_histograms(scores),
    }


def _score_differences(comparison: Comparison, prompts: Sequence[Prompt]) -> dict[str, Any]:
    differences: dict[str, list[float]] = {}
    for prompt, judgement in zip(prompts, comparison.judgements, strict=True):
        if judgement.score_first is not None and judgement.score_second is not None:
            differences.setdefault(prompt.kind, []).append(judgement.score_first - judgement.score_second)
    names = {"challenger": comparison.challenger, "baseline": comparison.baseline, "judge": comparison.judge}
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
    """The judge's scores of each model's responses; a model that stands in several comparisons counts once."""
    scores: dict[str, list[float]] = {}
    for item in comparisons:
        first = [judgement.score_first for judgement in item.judgements if judgement.score_first is not None]
        second = [judgement.score_second for judgement in item.judgements if judgement.score_second is not None]
        scores[item.challenger], scores[item.baseline] = first, second
    return scores


def _lengths(responses: Sequence[Response]) -> list[int]:
    return [len(response.ids) for response in responses]
