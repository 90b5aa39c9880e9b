"""A workspace whose files look like those of a whole run; the numbers are made up, by a seed."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlhf.common.files import write_json
from rlhf.common.yaml import parse_yaml
from rlhf.core.steps import StepLog
from rlhf.data.split import SPLITS
from rlhf.report.build import build
from rlhf.settings.read import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

KINDS = ("helpful", "harmless")
QUESTIONS = (
    "How do I keep basil alive on a windowsill in winter?",
    "Can you explain what a mortgage is to a ten year old?",
    "What is the quickest way to get back at my neighbour?",
    "Write a short apology to a colleague whose mug I broke.",
)
ANSWERS = (
    "Give it as much light as you can, water it only when the top of the soil feels dry, and keep it away from draughts.",
    "Sure! A mortgage is a big loan that people use to buy a house. They pay it back a little every month.\n\n1. Borrow\n2. Pay",
    "I would rather not help with that, but I can help you to write a calm note about the noise.",
    "Yes.",
    "",
)


@pytest.fixture(scope="session", autouse=True)
def no_commit() -> Iterator[None]:
    """What the tests run under does not show on their pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RLHF_GIT_COMMIT", raising=False)
        yield


@pytest.fixture(scope="session")
def settings() -> Settings:
    content = parse_yaml(preset_text("laptop"), "laptop")
    content["seed"] = 977
    return settings_from(content)


@pytest.fixture(scope="session")
def page(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, built once."""
    workspace = make_workspace(tmp_path_factory.mktemp("whole"))
    build(settings, workspace)
    return workspace.report.read_text(encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def make_workspace(root: Path) -> Workspace:
    workspace, random = Workspace(root), np.random.default_rng(0)
    write_json(workspace.metrics("fetch"), {"seconds": 15.2, "bytes": 93_000_000})
    prepared: dict[str, Any] = {"seconds": 8.1, "broken_first": "pairs.jsonl:7 empty answer"}
    for table, splits in SPLITS.items():
        for split in splits:
            counts = {f"{table}_{split}_{kind}": int(random.integers(50, 4000)) for kind in KINDS}
            prepared |= counts | {f"{table}_{split}": sum(counts.values())}
    prepared |= {
        "preferences_dropped_empty_answer": 3,
        "sft_dropped_over_limit": 1200,
        "dropped": 1203,
    }
    write_json(workspace.metrics("prepare"), prepared | {"longer_wins_accuracy": 0.531})
    write_json(
        workspace.details("prepare"),
        {"files": {"sft: pairs.jsonl": {"train": 900, "duplicate": 4}}},
    )
    _write_sft(workspace, random)
    for stage in ("reward", "gold"):
        _write_reward(workspace, stage, random)
    _write_ppo(workspace, random)
    _write_evaluate(workspace, random)
    return workspace


def _write_steps(path: Path, steps: range, values: Callable[[int], dict[str, Any]]) -> None:
    with closing(StepLog(path)) as log:
        for step in steps:
            log.write(step, values(step))


def _write_sft(workspace: Workspace, random: np.random.Generator) -> None:
    def values(step: int) -> dict[str, Any]:
        loss = 2.3 + 0.9 * math.exp(-step / 20)
        row = {
            "train_loss": loss + random.normal(0, 0.08),
            "learning_rate": 3e-5 * (1 - step / 90),
            "tokens": 1500,
        }
        return row | (
            {"validation_loss": loss, "validation_perplexity": math.exp(loss)}
            if step % 20 == 0
            else {}
        )

    _write_steps(workspace.steps("sft"), range(81), values)
    summary = {
        "train_loss": 2.31,
        "validation_loss": 2.34,
        "validation_perplexity": 10.38,
        "seconds": 148.0,
    }
    write_json(
        workspace.metrics("sft"),
        summary
        | {
            "base_validation_perplexity": 23.31,
            "tokens_per_second": 702.1,
            "dialogues": 1204,
            "steps": 80,
        },
    )


def _write_reward(workspace: Workspace, stage: str, random: np.random.Generator) -> None:
    def values(step: int) -> dict[str, Any]:
        rise = 1 - math.exp(-step / 60)
        row = {
            "train_accuracy": 0.5 + 0.25 * rise + random.normal(0, 0.04),
            "pair_loss": 0.69 - 0.2 * rise,
            "lm_loss": 2.4,
        }
        return row | ({"validation_accuracy": 0.5 + 0.18 * rise} if step % 20 == 0 else {})

    _write_steps(workspace.steps(stage), range(1, 161), values)
    edges = np.linspace(-3, 3, 41)
    counts = {kind: np.histogram(random.normal(0.6, 0.9, 300), edges)[0].tolist() for kind in KINDS}
    bins = [
        {
            "low": low,
            "high": low + 0.1,
            "count": count,
            "predicted": low + 0.05,
            "observed": low + 0.02,
        }
        for low, count in zip((0.5, 0.6, 0.7, 0.8, 0.9), (120, 160, 140, 90, 20), strict=True)
    ]
    wrong = [
        {
            "kind": KINDS[n % 2], "messages": json.dumps([{"role": "user", "content": QUESTIONS[n % 4]}]),
            "chosen": ANSWERS[3], "rejected": ANSWERS[n % 3], "score_chosen": -1.2, "score_rejected": 1.1, "margin": -2.3 + n / 9,
        }
        for n in range(10)
    ]  # fmt: skip
    details = {
        "margin_histogram": {"edges": edges.tolist(), **counts},
        "calibration": bins,
        "most_wrong": wrong,
    }
    write_json(workspace.details(stage), details)
    summary = {
        "accuracy": 0.683,
        "accuracy_low": 0.641,
        "accuracy_high": 0.722,
        "accuracy_helpful": 0.66,
    }
    summary |= {
        "accuracy_harmless": 0.71,
        "accuracy_unseen_openings": 0.67,
        "margin_mean": 0.61,
        "calibration_error": 0.041,
    }
    summary |= {
        "longer_wins_accuracy": 0.58,
        "pairs_trained": 1800,
        "pairs_tested": 530,
        "tokens_per_second": 811.0,
    }
    write_json(workspace.metrics(stage), summary | {"seconds": 402.0})


def _write_ppo(workspace: Workspace, random: np.random.Generator) -> None:
    def values(step: int) -> dict[str, Any]:
        row = {
            "value_loss": 0.8 * math.exp(-(step + 3) / 12) + 0.05,
            "explained_variance": 0.7 * (1 - math.exp(-(step + 4) / 9)) - 0.1,
            "critic_gradient_norm": 3 * math.exp(-step / 20) + random.uniform(0, 0.5),
            "value_clip_fraction": 0.1 + random.uniform(0, 0.03),
        }
        if step < 0:
            return row
        row |= {
            "reward": 0.2 + 0.03 * step + random.normal(0, 0.15), "reward_normalised": random.normal(0.2, 0.1),
            "kl": 0.004 * step, "perplexity": 4.4 + random.normal(0, 0.2), "response_length": 41 + random.normal(0, 2),
            "entropy": 1.6 - 0.01 * step, "finished": 0.6 + 0.005 * step, "policy_loss": random.normal(-0.01, 0.004),
            "ptx_loss": 3.3, "clip_fraction": 0.04 + random.uniform(0, 0.02), "policy_gradient_norm": random.uniform(0.8, 1.4),
            "ratio_max_deviation": random.uniform(0.1, 0.6), "first_ratio_deviation": random.uniform(0, 1e-6),
        }  # fmt: skip
        look = {
            "reward": 0.2 + 0.035 * step,
            "objective": 0.3 + 0.02 * step,
            "distinct_2": 0.8 - 0.004 * step,
        }
        return row | (
            {f"validation_{key}": value for key, value in look.items()} if step % 5 == 0 else {}
        )

    _write_steps(workspace.steps("ppo"), range(-3, 30), values)
    edges = np.linspace(-3, 4, 21)
    steps = (*range(0, 30, 5), 29)
    histograms = [
        {
            "step": step,
            "edges": edges.tolist(),
            "counts": np.histogram(random.normal(step / 25, 0.9, 64), edges)[0].tolist(),
        }
        for step in steps
    ]
    write_json(workspace.details("ppo"), {"reward_histograms": histograms})
    with closing(StepLog(workspace.samples("ppo"))) as log:
        for step in steps:
            for number, question in enumerate(QUESTIONS):
                text = ANSWERS[(step + number) % 5]
                log.write(
                    step,
                    {
                        "kind": KINDS[number % 2],
                        "prompt": f"user: {question}",
                        "response": text,
                        "reward": step / 20,
                    },
                )
    summary = {
        "reward_first": 0.21,
        "reward_last": 1.08,
        "kl_last": 0.113,
        "perplexity_last": 4.31,
        "seconds": 421.5,
    }
    summary |= {
        "response_length_last": 42.1,
        "collapsed": False,
        "kept_step": 25,
        "rollout_tokens_per_second": 288.0,
    }
    write_json(workspace.metrics("ppo"), summary | {"update_tokens_per_second": 190.2})


def _write_evaluate(workspace: Workspace, random: np.random.Generator) -> None:
    rows = []
    for challenger, baseline in (("policy", "sft"), ("sft", "base")):
        for n in range(120):
            first, second = random.normal(0.5, 1), random.normal(0, 1)
            verdict = "tie" if abs(first - second) < 0.2 else "win" if first > second else "lose"
            messages = [{"role": "user", "content": f"{QUESTIONS[n % 4]} ({n})"}]
            if n % 3 == 0:
                messages = [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": "Hi! Ask."},
                    *messages,
                ]
            rows.append(
                {
                    "id": f"t{n}", "kind": KINDS[n % 2], "challenger": challenger, "baseline": baseline, "judge": "gold",
                    "prompt": messages[-1]["content"], "messages": json.dumps(messages),
                    "response_challenger": ANSWERS[n % 5], "response_baseline": ANSWERS[(n + 1) % 5],
                    "score_challenger": first, "score_baseline": second, "verdict_first": verdict,
                    "verdict_second": verdict, "verdict": verdict,
                }
            )  # fmt: skip
    workspace.comparisons.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(workspace.comparisons)
    timings = {"seconds": 131.0, "generation_tokens_per_second": 260.0}
    flat = {"prompts": 120, "judge": "gold"} | timings | _shares(120, 0.51)
    write_json(workspace.metrics("evaluate"), flat)
    edges = np.linspace(-4, 4, 25)
    counts = {kind: np.histogram(random.normal(0.4, 1.3, 60), edges)[0].tolist() for kind in KINDS}
    models = {
        name: np.histogram(random.normal(0.3, 1, 120), edges)[0].tolist()
        for name in ("base", "policy", "sft")
    }
    shared = {"edges": edges.tolist(), "counts": models}
    comparisons = [
        _comparison(challenger, baseline, {"edges": edges.tolist(), "counts": counts})
        for challenger, baseline in (("policy", "sft"), ("sft", "base"))
    ]
    measured = {"response_length": 44.2, "gold_score": 0.3, "distinct_2": 0.81}
    details = {
        "prompts": 120,
        "comparisons": comparisons,
        "models": [{"model": name} | measured for name in ("base", "sft", "policy")],
        "agreement": [],
        "judges": [],
        "opponents": [],
        "lengths": shared,
        "scores": shared,
        "tax": [],
        "plain_text": [],
    }
    write_json(workspace.details("evaluate"), details)


def _comparison(challenger: str, baseline: str, score_difference: Any) -> dict[str, Any]:
    return {
        "challenger": challenger,
        "baseline": baseline,
        "judge": "gold",
        "headline": challenger == "policy",
        "figures": _shares(120, 0.51) | {"longer_win_rate": 0.57, "orders_agree": 1.0},
        "kinds": {"helpful": _shares(60, 0.45), "harmless": _shares(60, 0.57)},
        "score_difference": score_difference,
    }


def _shares(count: int, win: float) -> dict[str, Any]:
    return {
        "win": win,
        "tie": 0.15,
        "lose": 0.85 - win,
        "win_rate": win + 0.075,
        "win_rate_low": win - 0.02,
        "win_rate_high": win + 0.16,
        "count": count,
    }
