"""How well a reward model ranks pairs: accuracy by kind, margins, calibration, the pairs it is most wrong on (section 4)."""

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
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        / (1 + z * z / count)
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration(margins: Sequence[float], bins: int = 10) -> list[dict[str, float]]:
    """Bins of the predicted probability that the preferred of the two is the chosen one, with what was observed.

    Each pair enters once, with the model's own favourite: predicted = sigmoid(|margin|) in [0.5, 1], observed = whether that
    favourite is the labelled one.
    """
    values = np.asarray(margins, dtype=np.float64)
    predicted = 1 / (1 + np.exp(-np.abs(values)))
    right = values > 0
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.digitize(predicted, edges) - 1, 0, bins - 1)
    rows = []
    for index in range(bins):
        inside = place == index
        if inside.any():
            rows.append(
                {
                    "low": float(edges[index]),
                    "high": float(edges[index + 1]),
                    "count": int(inside.sum()),
                    "predicted": float(predicted[inside].mean()),
                    "observed": float(right[inside].mean()),
                }
            )
    return rows


def calibration_error(margins: Sequence[float]) -> float:
    """Expected calibration error: mean over pairs of |observed - predicted| of their bin."""
    rows = calibration(margins)
    return sum(row["count"] * abs(row["observed"] - row["predicted"]) for row in rows) / max(
        1, len(margins)
    )


def summary(table: pd.DataFrame, scores: PairScores) -> dict[str, float | int | None]:
    """Flat metrics on the test pairs; a kind without pairs gives None."""
    margins = np.asarray(scores.margins)
    right = margins > 0
    low, high = wilson(int(right.sum()), len(right))
    unseen = table["unseen_opening"].to_numpy(dtype=bool)
    longer = np.sign(table["chosen"].str.len().to_numpy() - table["rejected"].str.len().to_numpy())

    def accuracy(mask: np.ndarray) -> float | None:
        return float(right[mask].mean()) if mask.any() else None

    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        **{
            f"accuracy_{kind}": accuracy((table["kind"] == kind).to_numpy())
            for kind in ("helpful", "harmless")
        },
        "accuracy_unseen_openings": accuracy(unseen),
        "longer_wins_accuracy": float(
            (1 + longer).mean() / 2
        ),  # in characters; equal lengths count half
        "margin_mean": float(margins.mean()),
        "margin_std": float(margins.std()),
        "calibration_error": calibration_error(scores.margins),
        "loss": float(np.logaddexp(0.0, -margins).mean()),
        "score_mean": float(np.mean(scores.chosen + scores.rejected)),
        "score_std": float(np.std(scores.chosen + scores.rejected)),
        "pairs_tested": len(table),
    }


def details(table: pd.DataFrame, scores: PairScores) -> dict[str, Any]:
    """Margin histogram by kind, calibration bins and the ten pairs on which the model is most wrong (table 1)."""
    margins = np.asarray(scores.margins)
    reach = max(1e-6, float(np.abs(margins).max()))
    edges = np.linspace(-reach, reach, 41)
    kinds = table["kind"].to_numpy()
    worst = np.argsort(margins, kind="stable")[:MOST_WRONG]
    return {
        "margin_histogram": {
            "edges": edges.tolist(),
            **{
                str(kind): np.histogram(margins[kinds == kind], bins=edges)[0].tolist()
                for kind in sorted(set(kinds))
            },
        },
        "calibration": calibration(scores.margins),
        "most_wrong": [
            {
                **{
                    name: str(table[name].iloc[row])
                    for name in ("id", "kind", "messages", "chosen", "rejected")
                },
                "score_chosen": scores.chosen[row],
                "score_rejected": scores.rejected[row],
                "margin": float(margins[row]),
            }
            for row in worst
            if margins[row] < 0
        ],
    }
