"""Judged comparisons of two models' responses, and the table of all that was judged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.responses import EvaluationPrompt, Response, ResponsesByModel, prompt_seed
from rlhf.evaluation.types import UNJUDGED, Case, Judge, Judgement, Outcome


@dataclass(frozen=True)
class Comparison:
    """Two models' responses to the same prompts, judged by one judge, in the prompts' order."""

    challenger: str
    baseline: str
    judge: str
    judgements: list[Judgement]

    @property
    def outcomes(self) -> list[Outcome | None]:
        """None where the judge gave no verdict."""
        return [judgement.outcome for judgement in self.judgements]


# -- judging --


def judge_responses(
    judge: Judge,
    prompts: Sequence[EvaluationPrompt],
    challenger: Sequence[Response],
    baseline: Sequence[Response],
) -> list[Judgement]:
    """One judgement a prompt; a prompt that one of the two has no response to is not judged."""
    judged = [
        index
        for index in range(len(prompts))
        if not (challenger[index].missing or baseline[index].missing)
    ]
    # what is missing costs no question
    cases = [make_case(prompts[index], challenger[index], baseline[index]) for index in judged]

    judgements = [UNJUDGED] * len(prompts)
    for index, judgement in zip(judged, judge_both_orders(judge, cases), strict=True):
        judgements[index] = judgement
    return judgements


def make_case(prompt: EvaluationPrompt, challenger: Response, baseline: Response) -> Case:
    """A case with the challenger first; the models' names are left out."""
    return Case(
        id=prompt.id,
        kind=prompt.kind,
        messages=prompt.messages,
        response_first=challenger.text,
        response_second=baseline.text,
        prompt_ids=prompt.ids,
        ids_first=challenger.ids,
        ids_second=baseline.ids,
    )


# -- the table: data/evaluation/comparisons.parquet --


def comparison_tables(
    comparisons: Sequence[Comparison],
    prompts: Sequence[EvaluationPrompt],
    responses: ResponsesByModel,
    seed: int,
) -> pd.DataFrame:
    """The tables of all comparisons, one below the other."""
    tables = [comparison_table(comparison, prompts, responses, seed) for comparison in comparisons]
    return pd.concat(tables, ignore_index=True)


def comparison_table(
    comparison: Comparison,
    prompts: Sequence[EvaluationPrompt],
    responses: ResponsesByModel,
    seed: int,
) -> pd.DataFrame:
    """One row a prompt; the verdicts are win, tie or lose, of the challenger.

    verdict_first: with the challenger shown first; verdict_second: with the baseline shown first;
        a verdict that the judge did not give is missing (None)
    seed: of the prompt's random stream, the same for both models; responses from a file or an
        endpoint did not use it
    """
    content: list[dict[str, Any]] = []
    rows = zip(
        prompts,
        responses[comparison.challenger],
        responses[comparison.baseline],
        comparison.judgements,
        strict=True,
    )
    for prompt, challenger, baseline, judgement in rows:
        row = {
            "id": prompt.id,
            "seed": prompt_seed(seed, prompt),
            "kind": prompt.kind,
            "challenger": comparison.challenger,
            "baseline": comparison.baseline,
            "judge": comparison.judge,
            "prompt": prompt.question,
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
        content.append(row)

    # of one type with and without numbers, for tables to be joined
    scores = {"score_challenger": "float64", "score_baseline": "float64"}
    return pd.DataFrame(content).astype(scores)
