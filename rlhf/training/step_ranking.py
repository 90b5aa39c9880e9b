"""How well a process reward model tells right steps from wrong ones, and right answers from wrong ones."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from rlhf.ppo.steps import AGGREGATES, Aggregate, solution_scores, step_loss

# a label that is at least so is right
RIGHT = 0.5
_BINS = 10


@dataclass(frozen=True)
class StepScores:
    """Logits of the steps of each answer and their labels (NaN: none), in the order of the table."""

    logits: list[list[float]]
    labels: list[list[float]]

    @property
    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels of all steps with a label, [N] float64 each."""
        logits = np.array([value for row in self.logits for value in row], dtype=np.float64)
        labels = np.array([value for row in self.labels for value in row], dtype=np.float64)
        known = ~np.isnan(labels)
        return logits[known], labels[known]

    def of_answers(self, aggregate: Aggregate) -> list[float]:
        """One score for each answer, from the probabilities of its steps."""
        scores = []
        for logits in self.logits:
            row = torch.tensor([logits], dtype=torch.float64).sigmoid()
            everywhere = torch.ones_like(row, dtype=torch.bool)
            scores.append(float(solution_scores(row, everywhere, everywhere, aggregate)))
        return scores


def step_figures(scores: StepScores) -> dict[str, float | None]:
    """Of the steps with a label: accuracy, AUC, loss and calibration error.

    accuracy: the share on the label's side of one half; auc: None where all are right or all wrong
    """
    logits, labels = scores.labelled
    right = labels >= RIGHT
    loss = step_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    return {
        "accuracy": float(((logits >= 0) == right).mean()),
        "auc": auc(logits, right),
        "loss": float(loss.mean()),
        "calibration_error": calibration_error(scores),
    }


def auc(values: np.ndarray, right: np.ndarray) -> float | None:
    """The probability that a right one has the higher value than a wrong one; equal ones count half.

    None where there are none of either kind.
    """
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    # Mann and Whitney: the ranks of the right ones, less what they would be by themselves
    ranks = rankdata(values)[right].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def calibration(scores: StepScores) -> list[dict[str, float]]:
    """Ten bins of the predicted probability: its mean, and that of the labels."""
    logits, labels = scores.labelled
    predicted = 1 / (1 + np.exp(-logits))
    place = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    rows = []
    for index in sorted(set(place.tolist())):
        inside = place == index
        row = {
            "low": index / _BINS,
            "high": (index + 1) / _BINS,
            "count": int(inside.sum()),
            "predicted": float(predicted[inside].mean()),
            "observed": float(labels[inside].mean()),
        }
        rows.append(row)
    return rows


def calibration_error(scores: StepScores) -> float:
    """Expected calibration error: mean over steps of |observed - predicted| of their bin."""
    bins = calibration(scores)
    off = sum(row["count"] * abs(row["observed"] - row["predicted"]) for row in bins)
    return off / sum(row["count"] for row in bins)


def ranking_figures(prompts: Iterable[Hashable], scores: StepScores) -> dict[str, float | None]:
    """How often a right answer is ranked above a wrong one to the same prompt, by each aggregate.

    An answer is right if all of its labels are. prompts: one for each answer; answer_pairs: of a right
    and a wrong answer, over which the accuracies are means; None where there are none.
    """
    # 1. right and wrong answers of each prompt
    of_prompt: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row, (prompt, labels) in enumerate(zip(prompts, scores.labels, strict=True)):
        is_wrong = any(label < RIGHT for label in labels)
        of_prompt[prompt][is_wrong].append(row)
    pairs = [
        (right, wrong)
        for rights, wrongs in of_prompt.values()
        for right in rights
        for wrong in wrongs
    ]

    # 2. which of each two is ranked higher
    figures: dict[str, float | None] = {"answer_pairs": len(pairs)}
    for aggregate in AGGREGATES:
        values = scores.of_answers(aggregate)
        above = [np.sign(values[right] - values[wrong]) for right, wrong in pairs]
        mean = float((1 + np.mean(above)) / 2) if pairs else None
        figures[f"ranking_accuracy_{aggregate}"] = mean
    return figures


def most_wrong(
    table: pd.DataFrame, steps: Sequence[Sequence[str]], scores: StepScores, count: int = 10
) -> list[dict[str, Any]]:
    """The steps with the largest loss; steps: the texts of each row's steps."""
    found: list[tuple[float, int, int]] = []
    for row, (logits, labels) in enumerate(zip(scores.logits, scores.labels, strict=True)):
        losses = step_loss(torch.tensor(logits), torch.tensor(labels)).tolist()
        found += [(loss, row, step) for step, loss in enumerate(losses) if loss == loss]
    worst = sorted(found, key=lambda item: (-item[0], *item[1:]))[:count]
    return [
        {
            "id": str(table["id"].iloc[row]),
            "messages": str(table["messages"].iloc[row]),
            "steps": list(steps[row][: step + 1]),
            "label": scores.labels[row][step],
            "probability": float(torch.tensor(scores.logits[row][step]).sigmoid()),
        }
        for _, row, step in worst
    ]
