"""The files of an evaluation with made-up numbers."""

import json

import numpy as np
import pandas as pd

from rlhf.common.files import write_json
from rlhf.report.inputs import JsonObject
from rlhf.workspace import Workspace

KINDS = ("helpful", "harmless")
MODELS = ("base", "policy", "sft")
COMPARISONS = (("policy", "sft"), ("sft", "base"))
QUESTIONS = (
    "How do I keep basil alive on a windowsill in winter?",
    "Can you explain what a mortgage is to a ten year old?",
    "What is the quickest way to get back at my neighbour?",
    "Write a short apology to a colleague whose mug I broke.",
)
ANSWERS = (
    "Give it as much light as you can, water it only when the top of the soil feels dry.",
    "Sure! A mortgage is a big loan that people use to buy a house.\n\n1. Borrow\n2. Pay",
    "I would rather not help with that, but I can help you to write a calm note about the noise.",
    "Yes.",
    "",
)


def histogram(values: np.ndarray, edges: np.ndarray) -> list[int]:
    return np.histogram(values, edges)[0].tolist()


def write_comparisons(workspace: Workspace, random: np.random.Generator) -> None:
    rows = [
        _comparison(number, challenger, baseline, random)
        for challenger, baseline in COMPARISONS
        for number in range(120)
    ]
    workspace.comparisons.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(workspace.comparisons)


def _comparison(
    number: int, challenger: str, baseline: str, random: np.random.Generator
) -> JsonObject:
    first, second = random.normal(0.5, 1), random.normal(0, 1)
    verdict = "win" if first > second else "lose"
    if abs(first - second) < 0.2:
        verdict = "tie"

    # every third dialogue has several turns
    messages = [{"role": "user", "content": f"{QUESTIONS[number % 4]} ({number})"}]
    if number % 3 == 0:
        messages.insert(0, {"role": "user", "content": "Hello"})
        messages.insert(1, {"role": "assistant", "content": "Hi! Ask."})
    return {
        "id": f"t{number}",
        "kind": KINDS[number % 2],
        "challenger": challenger,
        "baseline": baseline,
        "judge": "gold",
        "prompt": messages[-1]["content"],
        "messages": json.dumps(messages),
        "response_challenger": ANSWERS[number % 5],
        "response_baseline": ANSWERS[(number + 1) % 5],
        "score_challenger": first,
        "score_baseline": second,
        "verdict_first": verdict,
        "verdict_second": verdict,
        "verdict": verdict,
    }


def write_evaluate_summary(workspace: Workspace) -> None:
    summary: JsonObject = {
        "prompts": 120,
        "judge": "gold",
        "seconds": 131.0,
        "generation_tokens_per_second": 260.0,
    }
    write_json(workspace.metrics("evaluate"), summary | _shares(120, 0.51))


def write_evaluate_details(workspace: Workspace, random: np.random.Generator) -> None:
    edges = np.linspace(-4, 4, 25)
    by_kind = {kind: histogram(random.normal(0.4, 1.3, 60), edges) for kind in KINDS}
    by_model = {model: histogram(random.normal(0.3, 1, 120), edges) for model in MODELS}
    differences = {"edges": edges.tolist(), "counts": by_kind}
    models = {"edges": edges.tolist(), "counts": by_model}
    comparisons = [
        {
            "challenger": challenger,
            "baseline": baseline,
            "judge": "gold",
            "headline": challenger == "policy",
            "metrics": _shares(120, 0.51) | {"longer_win_rate": 0.57, "orders_agree": 1.0},
            "kinds": {"helpful": _shares(60, 0.45), "harmless": _shares(60, 0.57)},
            "score_difference": differences,
        }
        for challenger, baseline in COMPARISONS
    ]
    measured = {"response_length": 44.2, "gold_score": 0.3, "distinct_2": 0.81}
    details = {
        "prompts": 120,
        "comparisons": comparisons,
        "models": [{"model": model} | measured for model in MODELS],
        "agreement": [],
        "judges": [],
        "opponents": [],
        "lengths": models,
        "scores": models,
        "tax": [],
        "plain_text": [],
    }
    write_json(workspace.details("evaluate"), details)


def _shares(count: int, win: float) -> JsonObject:
    return {
        "win": win,
        "tie": 0.15,
        "lose": 0.85 - win,
        "win_rate": win + 0.075,
        "win_rate_low": win - 0.02,
        "win_rate_high": win + 0.16,
        "count": count,
    }
