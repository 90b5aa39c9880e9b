"""The evaluate stage: every model answers the held-out prompts once, judges compare, win rates are written."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.judges.endpoints import client_of
from rlhf.evaluation.opponents import read_responses, responses_of
from rlhf.evaluation.responses import Prompt, Response, prompt_seed, read_prompts
from rlhf.evaluation.summary import Answers, Comparison, details, summary
from rlhf.evaluation.tax import alignment_tax
from rlhf.evaluation.types import UNJUDGED, Case, Judge, Judgement, judge_both_orders, make_judge
from rlhf.models.saving import load_tokenizer
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class Judged:
    """What the judges of the settings said of every pair of models, and what there is to tell of them."""

    prompts: list[Prompt]
    answers: Answers
    comparisons: list[Comparison]
    facts: dict[str, Value]
    seed: int  # the run's


def evaluate(settings: Settings, workspace: Workspace) -> None:
    """Write `data/evaluation/comparisons.parquet`, `metrics/evaluate.json` and `metrics/evaluate_details.json`.

    The first comparison of the settings, by the first judge, is the headline, its keys unprefixed.
    """
    began = time.monotonic()
    check_ready(settings, workspace)
    engine = TorchEngine(settings.engine)

    # 1. what the models know beside: the alignment tax; first, for a wrong name of a task must not cost judged answers
    tax, tax_details = (
        alignment_tax(settings, workspace, engine) if settings.evaluate.tax else ({}, {})
    )

    # 2. models answer, judges compare
    judged = compare(settings, workspace, engine)

    # 3. what was said and judged, then the numbers drawn from it
    with staged_directory(workspace.comparisons.parent) as directory:
        comparison_tables(judged).to_parquet(directory / workspace.comparisons.name, index=False)
    found = details(judged.comparisons, judged.prompts, judged.answers) | tax_details
    write_json(workspace.details("evaluate"), found)
    seconds: dict[str, Value] = {"seconds": time.monotonic() - began}
    write_summary(workspace.metrics("evaluate"), judged_summary(judged) | tax | seconds)


def check_ready(
    settings: Settings, workspace: Workspace, addresses: Sequence[str] | None = None
) -> None:
    """Refuse a key, file or directory that judges and opponents (or those at `addresses`) lack before any work.

    Responses in a `file:` are looked up by the prompts that `prepare` has made.
    """
    section = settings.evaluate
    for address in (
        (*section.judges, *section.opponents.values()) if addresses is None else addresses
    ):
        kind, _, detail = address.partition(":")
        if kind == "api":
            client_of(detail, section.endpoints[detail])
        elif kind == "people":
            make_judge(address, settings, workspace)
        elif kind == "file":
            read_responses(Path(os.path.expandvars(detail)), read_prompts(workspace))
        elif kind == "path":
            load_tokenizer(Path(os.path.expandvars(detail)))


def compare(settings: Settings, workspace: Workspace, engine: TorchEngine) -> Judged:
    """Let every model of `evaluate.comparisons` answer the held-out prompts, and every judge compare each pair.

    Models are in memory one at a time.
    """
    section = settings.evaluate
    facts: dict[str, Value] = {}

    # 1. every model that takes part answers every held-out prompt
    began = time.monotonic()
    prompts = read_prompts(workspace)
    answers: dict[str, list[Response]] = {}
    for name in dict.fromkeys(name for pair in section.comparisons for name in pair):
        answers[name], told = responses_of(name, settings, workspace, prompts, engine)
        facts |= {f"opponent_{name}_{key}": value for key, value in told.items()}
    tokens = sum(len(response.ids) for responses in answers.values() for response in responses)
    facts["generation_tokens_per_second"] = tokens / max(time.monotonic() - began, 1e-9)

    # 2. each judge compares each pair in both orders
    comparisons: list[Comparison] = []
    for address in section.judges:
        judge: Judge = make_judge(address, settings, workspace)
        for challenger, baseline in section.comparisons:
            judgements = judge_where_both_are(
                judge, prompts, answers[challenger], answers[baseline]
            )
            comparisons.append(Comparison(challenger, baseline, judge.name, judgements))
        facts |= {f"{judge.name}_{key}": value for key, value in judge.facts().items()}
        del judge  # a model's memory before the next one is loaded
    return Judged(prompts, answers, comparisons, facts, settings.seed)


def judged_summary(judged: Judged) -> dict[str, Value]:
    """The flat metrics of all comparisons."""
    return summary(judged.comparisons, judged.prompts, judged.answers, judged.seed) | judged.facts


def judge_where_both_are(
    judge: Judge,
    prompts: Sequence[Prompt],
    challenger: Sequence[Response],
    baseline: Sequence[Response],
) -> list[Judgement]:
    """One judgement a prompt; a prompt that one of the two has no response to is not judged."""
    cases = make_cases(prompts, challenger, baseline)
    there = [
        not (first.missing or second.missing)
        for first, second in zip(challenger, baseline, strict=True)
    ]
    judged = iter(
        judge_both_orders(judge, [case for case, both in zip(cases, there, strict=True) if both])
    )
    return [next(judged) if both else UNJUDGED for both in there]


def make_cases(
    prompts: Sequence[Prompt], challenger: Sequence[Response], baseline: Sequence[Response]
) -> list[Case]:
    """Cases with the challenger first; the models' names are left out."""
    return [
        Case(
            prompt.id,
            prompt.kind,
            prompt.messages,
            first.text,
            second.text,
            prompt.ids,
            first.ids,
            second.ids,
        )
        for prompt, first, second in zip(prompts, challenger, baseline, strict=True)
    ]


def comparison_tables(judged: Judged) -> pd.DataFrame:
    """The tables of all comparisons, one below the other."""
    tables = [
        comparison_table(item, judged.prompts, judged.answers, judged.seed)
        for item in judged.comparisons
    ]
    return pd.concat(tables, ignore_index=True)


def comparison_table(
    comparison: Comparison, prompts: Sequence[Prompt], answers: Answers, seed: int
) -> pd.DataFrame:
    """One row a prompt; verdicts from the challenger's view, `verdict_second` with the baseline shown first.

    A verdict that the judge did not give is missing (None). `seed` is that of the prompt's random stream, the same for
    both models; responses that came from a file or an endpoint did not use it.
    """
    rows = zip(
        prompts,
        answers[comparison.challenger],
        answers[comparison.baseline],
        comparison.judgements,
        strict=True,
    )
    content: list[dict[str, Any]] = [
        {
            "id": prompt.id,
            "seed": prompt_seed(seed, prompt),
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
    table = pd.DataFrame(content)
    scores = [
        "score_challenger",
        "score_baseline",
    ]  # of one type with and without numbers, for tables to be joined
    return table.astype({key: "float64" for key in scores})
