"""How well a reward model ranks pairs (section 4).

Accuracy by kind, margins, calibration, and the pairs that it ranks most wrongly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MOST_WRONG = 10


@dataclass(frozen=True)
class PairScores:
    """Scores of the chosen and the rejected answer of each pair, in the order of the table."""

    chosen: list[float]
    rejected: list[float]

    @property
    def margins(self) -> list[float]:
        """r(chosen) - r(rejected)."""
        return [c - r for c, r in zip(self.chosen, self.rejected, strict=True)]

    @property
    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation of all scores; a deviation of 0 is given as 1."""
        values = [*self.chosen, *self.rejected]
        return float(np.mean(values)), float(np.std(values, ddof=1)) or 1.0

    def shifted(self, by: float) -> "PairScores":
        """All scores with `by` added."""
        chosen = [score + by for score in self.chosen]
        rejected = [score + by for score in self.rejected]
        return PairScores(chosen, rejected)


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson interval of a share; (0, 1) for no observations."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    variance = share * (1 - share) / count + z * z / (4 * count * count)
    half = z * math.sqrt(variance) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration(margins: Sequence[float], bins: int = 10) -> list[dict[str, float]]:
    """Bins of the predicted probability that the preferred answer is the chosen one.

    Each pair enters once, with the model's own favourite: predicted = sigmoid(|margin|), at least
    0.5; observed = whether that favourite is the labelled one.
    """
    # 1. where each pair falls
    values = np.asarray(margins, dtype=np.float64)
    predicted = 1 / (1 + np.exp(-np.abs(values)))
    right = values > 0
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.digitize(predicted, edges) - 1, 0, bins - 1)

    # 2. the bins that hold any
    rows = []
    for index in range(bins):
        inside = place == index
        if not inside.any():
            continue
        row = {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "count": int(inside.sum()),
            "predicted": float(predicted[inside].mean()),
            "observed": float(right[inside].mean()),
        }
        rows.append(row)
    return rows


def calibration_error(margins: Sequence[float]) -> float:
    """Expected calibration error: mean over pairs of |observed - predicted| of their bin."""
    off = [row["count"] * abs(row["observed"] - row["predicted"]) for row in calibration(margins)]
    return sum(off) / max(1, len(margins))


def summary(table: pd.DataFrame, scores: PairScores) -> dict[str, float | int | None]:
    """Flat metrics on the test pairs; a kind without pairs gives None."""
    margins = np.asarray(scores.margins)
    right = margins > 0
    low, high = wilson(int(right.sum()), len(right))
    unseen = table["unseen_opening"].to_numpy(dtype=bool)
    helpful = (table["kind"] == "helpful").to_numpy()
    harmless = (table["kind"] == "harmless").to_numpy()
    # 1 where the chosen answer is longer (in characters), 0 for equal lengths, else -1
    longer = np.sign(table["chosen"].str.len().to_numpy() - table["rejected"].str.len().to_numpy())

    def accuracy(mask: np.ndarray) -> float | None:
        return float(right[mask].mean()) if mask.any() else None

    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_helpful": accuracy(helpful),
        "accuracy_harmless": accuracy(harmless),
        "accuracy_unseen_openings": accuracy(unseen),
        # of a judge that takes the longer answer; equal lengths count half
        "longer_wins_accuracy": float((1 + longer).mean() / 2),
        "margin_mean": float(margins.mean()),
        "margin_std": float(margins.std()),
        "calibration_error": calibration_error(scores.margins),
        "loss": float(np.logaddexp(0.0, -margins).mean()),
        "score_mean": float(np.mean(scores.chosen + scores.rejected)),
        "score_std": float(np.std(scores.chosen + scores.rejected)),
        "pairs_tested": len(table),
    }


def details(table: pd.DataFrame, scores: PairScores) -> dict[str, Any]:
    """Margins by kind, calibration bins and the ten pairs that are ranked most wrongly (table 1)."""
    margins = np.asarray(scores.margins)
    worst = np.argsort(margins, kind="stable")[:MOST_WRONG]
    return {
        "margin_histogram": _margin_histogram(table["kind"].to_numpy(), margins),
        "calibration": calibration(scores.margins),
        "most_wrong": [_as_row(table, scores, row) for row in worst if margins[row] < 0],
    }


def _margin_histogram(kinds: np.ndarray, margins: np.ndarray) -> dict[str, list[float]]:
    # even for margins that are all 0 the edges must rise
    reach = max(1e-6, float(np.abs(margins).max()))
    edges = np.linspace(-reach, reach, 41)
    histogram = {"edges": edges.tolist()}
    for kind in sorted(set(kinds)):
        counts, _ = np.histogram(margins[kinds == kind], bins=edges)
        histogram[str(kind)] = counts.tolist()
    return histogram


def _as_row(table: pd.DataFrame, scores: PairScores, row: int) -> dict[str, Any]:
    columns = ("id", "kind", "messages", "chosen", "rejected")
    texts = {name: str(table[name].iloc[row]) for name in columns}
    numbers = {
        "score_chosen": scores.chosen[row],
        "score_rejected": scores.rejected[row],
        "margin": float(scores.margins[row]),
    }
    return texts | numbers
