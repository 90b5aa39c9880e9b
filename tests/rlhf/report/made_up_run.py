"""The files of a whole run with made-up numbers, the same at every call."""

import json
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from made_up_evaluation import (
    ANSWERS,
    KINDS,
    QUESTIONS,
    histogram,
    write_comparisons,
    write_evaluate_details,
    write_evaluate_summary,
)

from rlhf.common.files import write_json
from rlhf.core.steps import StepLog
from rlhf.data.tables import SPLITS
from rlhf.report.inputs import JsonObject
from rlhf.workspace import Workspace


def make_workspace(root: Path) -> Workspace:
    workspace = Workspace(root)
    random = np.random.default_rng(0)
    write_json(workspace.metrics("fetch"), {"seconds": 15.2, "bytes": 93_000_000})
    _write_prepare(workspace, random)
    _write_sft(workspace, random)
    for stage in ("reward", "gold"):
        _write_reward_steps(workspace, stage, random)
        _write_reward_details(workspace, stage, random)
        _write_reward_summary(workspace, stage)
    write_dpo(workspace)
    _write_ppo_steps(workspace, random)
    _write_ppo_details(workspace, random)
    _write_ppo_summary(workspace)
    write_comparisons(workspace, random)
    write_evaluate_summary(workspace)
    write_evaluate_details(workspace, random)
    return workspace


def _write_steps(path: Path, steps: range, values: Callable[[int], JsonObject]) -> None:
    with closing(StepLog(path)) as log:
        for step in steps:
            log.write(step, values(step))


# -- data and SFT --


def _write_prepare(workspace: Workspace, random: np.random.Generator) -> None:
    summary: JsonObject = {
        "seconds": 8.1,
        "broken_first": "pairs.jsonl:7 empty answer",
        "preferences_dropped_empty_answer": 3,
        "sft_dropped_over_limit": 1200,
        "dropped": 1203,
        "longer_wins_accuracy": 0.531,
    }
    for table, splits in SPLITS.items():
        for split in splits:
            counts = {f"{table}_{split}_{kind}": int(random.integers(50, 4000)) for kind in KINDS}
            summary |= counts
            summary[f"{table}_{split}"] = sum(counts.values())
    write_json(workspace.metrics("prepare"), summary)
    files = {"sft: pairs.jsonl": {"train": 900, "duplicate": 4}}
    write_json(workspace.details("prepare"), {"files": files})


def _write_sft(workspace: Workspace, random: np.random.Generator) -> None:
    def values(step: int) -> JsonObject:
        loss = 2.3 + 0.9 * math.exp(-step / 20)
        row = {
            "train_loss": loss + random.normal(0, 0.08),
            "learning_rate": 3e-5 * (1 - step / 90),
            "tokens": 1500,
        }
        if step % 20 == 0:
            row |= {"validation_loss": loss, "validation_perplexity": math.exp(loss)}
        return row

    _write_steps(workspace.steps("sft"), range(81), values)
    summary = {
        "train_loss": 2.31,
        "validation_loss": 2.34,
        "validation_perplexity": 10.38,
        "base_validation_perplexity": 23.31,
        "dialogues": 1204,
        "steps": 80,
        "seconds": 148.0,
        "tokens_per_second": 702.1,
    }
    write_json(workspace.metrics("sft"), summary)


# -- reward models --


def _write_reward_steps(workspace: Workspace, stage: str, random: np.random.Generator) -> None:
    def values(step: int) -> JsonObject:
        rise = 1 - math.exp(-step / 60)
        row = {
            "train_accuracy": 0.5 + 0.25 * rise + random.normal(0, 0.04),
            "pair_loss": 0.69 - 0.2 * rise,
            "lm_loss": 2.4,
        }
        if step % 20 == 0:
            row["validation_accuracy"] = 0.5 + 0.18 * rise
        return row

    _write_steps(workspace.steps(stage), range(1, 161), values)


def _write_reward_details(workspace: Workspace, stage: str, random: np.random.Generator) -> None:
    edges = np.linspace(-3, 3, 41)
    margins = {kind: histogram(random.normal(0.6, 0.9, 300), edges) for kind in KINDS}
    bins = [
        {
            "low": low,
            "high": low + 0.1,
            "count": count,
            "predicted": low + 0.05,
            "observed": low + 0.02,
        }
        for low, count in ((0.5, 120), (0.6, 160), (0.7, 140), (0.8, 90), (0.9, 20))
    ]
    most_wrong = [
        {
            "kind": KINDS[number % 2],
            "messages": json.dumps([{"role": "user", "content": QUESTIONS[number % 4]}]),
            "chosen": ANSWERS[3],
            "rejected": ANSWERS[number % 3],
            "score_chosen": -1.2,
            "score_rejected": 1.1,
            "margin": -2.3 + number / 9,
        }
        for number in range(10)
    ]
    details = {
        "margin_histogram": {"edges": edges.tolist(), **margins},
        "calibration": bins,
        "most_wrong": most_wrong,
    }
    write_json(workspace.details(stage), details)


def _write_reward_summary(workspace: Workspace, stage: str) -> None:
    summary = {
        "accuracy": 0.683,
        "accuracy_low": 0.641,
        "accuracy_high": 0.722,
        "accuracy_helpful": 0.66,
        "accuracy_harmless": 0.71,
        "accuracy_unseen_openings": 0.67,
        "accuracy_cut_answers": 0.94,
        "margin_mean": 0.61,
        "calibration_error": 0.041,
        "longer_wins_accuracy": 0.58,
        "pairs_trained": 1800,
        "pairs_tested": 530,
        "seconds": 402.0,
        "tokens_per_second": 811.0,
    }
    write_json(workspace.metrics(stage), summary)


# -- DPO --


def write_dpo(workspace: Workspace) -> None:
    """What the stage measures where it is on."""
    random = np.random.default_rng(1)

    def values(step: int) -> JsonObject:
        row = {
            f"{split}_{key}": value + random.normal(0, 0.01)
            for split in ("train", "validation")
            for key, value in {
                "loss": 0.69 * math.exp(-step / 40),
                "accuracy": 0.5 + 0.008 * step,
                "margin": 0.02 * step,
                "chosen_logprob": -60 - 0.1 * step,
                "rejected_logprob": -58 - 0.4 * step,
            }.items()
        }
        return row if step else {key: row[key] for key in row if key.startswith("validation")}

    _write_steps(workspace.steps("dpo"), range(0, 30), values)
    _write_reward_details(workspace, "dpo", random)
    summary = {
        "accuracy": 0.664,
        "accuracy_low": 0.62,
        "accuracy_high": 0.70,
        "accuracy_helpful": 0.65,
        "accuracy_harmless": 0.68,
        "longer_wins_accuracy": 0.58,
        "margin_mean": 0.44,
        "test_chosen_logprob": -63.4,
        "test_rejected_logprob": -70.1,
        "test_reference_chosen_logprob": -60.2,
        "test_reference_rejected_logprob": -58.9,
        "pairs_trained": 1800,
        "pairs_tested": 530,
        "seconds": 350.0,
        "tokens_per_second": 760.0,
    }
    write_json(workspace.metrics("dpo"), summary)


# -- PPO --


def _write_ppo_steps(workspace: Workspace, random: np.random.Generator) -> None:
    def values(step: int) -> JsonObject:
        row = {
            "value_loss": 0.8 * math.exp(-(step + 3) / 12) + 0.05,
            "explained_variance": 0.7 * (1 - math.exp(-(step + 4) / 9)) - 0.1,
            "critic_gradient_norm": 3 * math.exp(-step / 20) + random.uniform(0, 0.5),
            "value_clip_fraction": 0.1 + random.uniform(0, 0.03),
        }
        # before step 0 the critic is trained alone
        if step < 0:
            return row
        row |= {
            "reward": 0.2 + 0.03 * step + random.normal(0, 0.15),
            "reward_normalised": random.normal(0.2, 0.1),
            "kl": 0.004 * step,
            "perplexity": 4.4 + random.normal(0, 0.2),
            "response_length": 41 + random.normal(0, 2),
            "entropy": 1.6 - 0.01 * step,
            "finished": 0.6 + 0.005 * step,
            "policy_loss": random.normal(-0.01, 0.004),
            "ptx_loss": 3.3,
            "clip_fraction": 0.04 + random.uniform(0, 0.02),
            "policy_gradient_norm": random.uniform(0.8, 1.4),
            "ratio_max_deviation": random.uniform(0.1, 0.6),
            "first_ratio_deviation": random.uniform(0, 1e-6),
        }
        if step % 5 == 0:
            row |= {
                "validation_reward": 0.2 + 0.035 * step,
                "validation_objective": 0.3 + 0.02 * step,
                "validation_distinct_2": 0.8 - 0.004 * step,
                "validation_win_rate": 0.5 + 0.008 * step,
            }
        return row

    _write_steps(workspace.steps("ppo"), range(-3, 30), values)


def _write_ppo_details(workspace: Workspace, random: np.random.Generator) -> None:
    edges = np.linspace(-3, 4, 21)
    validated = (*range(0, 30, 5), 29)
    histograms = [
        {
            "step": step,
            "edges": edges.tolist(),
            "counts": histogram(random.normal(step / 25, 0.9, 64), edges),
        }
        for step in validated
    ]
    write_json(workspace.details("ppo"), {"reward_histograms": histograms})
    with closing(StepLog(workspace.samples("ppo"))) as log:
        for step in validated:
            for number, question in enumerate(QUESTIONS):
                sample = {
                    "kind": KINDS[number % 2],
                    "prompt": f"user: {question}",
                    "response": ANSWERS[(step + number) % 5],
                    "reward": step / 20,
                }
                log.write(step, sample)


def _write_ppo_summary(workspace: Workspace) -> None:
    summary = {
        "reward_first": 0.21,
        "reward_last": 1.08,
        "kl_last": 0.113,
        "perplexity_last": 4.31,
        "response_length_last": 42.1,
        "collapsed": False,
        "kept_step": 25,
        "seconds": 421.5,
        "rollout_tokens_per_second": 288.0,
        "update_tokens_per_second": 190.2,
    }
    write_json(workspace.metrics("ppo"), summary)
