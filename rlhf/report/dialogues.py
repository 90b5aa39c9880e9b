"""Which dialogues stand side by side on the page: best gains, worst losses and ones picked at random."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.core.seeds import derive_seed

Row = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One model's response; `score` is the judge's, None where it gives none."""

    model: str
    text: str
    score: float | None


@dataclass(frozen=True)
class Dialogue:
    """One prompt with the responses of all models that were asked, and why it is shown."""

    why: str  # best gain, worst loss, random
    kind: str
    verdict: str
    messages: list[dict[str, str]]
    replies: list[Reply]


def choose_dialogues(comparisons: Sequence[Row], count: int, seed: int) -> list[Dialogue]:
    """Pick `count` prompts of the headline comparison (the first, by the first judge): gains, losses and random ones.

    A third each. Gains are wins with the largest score difference, losses likewise; where there are too few, random ones
    fill up. No prompt is shown twice.
    """
    if not comparisons:
        return []
    comparisons = [row for row in comparisons if row["judge"] == comparisons[0]["judge"]]
    pair = (comparisons[0]["challenger"], comparisons[0]["baseline"])
    headline = [row for row in comparisons if (row["challenger"], row["baseline"]) == pair]
    ranked = sorted(headline, key=lambda row: (-_gain(row), str(row["id"])))
    gains = [row for row in ranked if row["verdict"] == "win"][: count // 3]
    losses = [row for row in reversed(ranked) if row["verdict"] == "lose"][: count // 3]
    shown = {row["id"] for row in (*gains, *losses)}
    rest = sorted(
        (row for row in headline if row["id"] not in shown), key=lambda row: str(row["id"])
    )
    random.Random(derive_seed(seed, "report", "dialogues")).shuffle(rest)
    picked = [("best gain", row) for row in gains] + [("worst loss", row) for row in losses]
    picked += [("random", row) for row in rest[: count - len(picked)]]
    replies = _replies(comparisons)
    return [
        Dialogue(
            why, row["kind"], row["verdict"] or "no verdict", row["messages"], replies[row["id"]]
        )
        for why, row in picked
    ]


def _gain(row: Row) -> float:
    if row["score_challenger"] is None or row["score_baseline"] is None:
        return 0.0
    return float(row["score_challenger"] - row["score_baseline"])


def _replies(comparisons: Sequence[Row]) -> dict[Any, list[Reply]]:
    """Replies by prompt: base, sft, policy, then any others by name."""
    found: dict[Any, dict[str, Reply]] = {}
    for row in comparisons:
        for side in ("challenger", "baseline"):
            reply = Reply(row[side], row[f"response_{side}"], row[f"score_{side}"])
            found.setdefault(row["id"], {}).setdefault(reply.model, reply)
    known = ["base", "sft", "policy"]

    def place(reply: Reply) -> tuple[int, str]:
        return (known.index(reply.model) if reply.model in known else len(known), reply.model)

    return {key: sorted(replies.values(), key=place) for key, replies in found.items()}
