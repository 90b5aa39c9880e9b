"""The judged comparisons as the page shows them: one view a pair of models and judge.

All figures come from the structure in `metrics/evaluate_details.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.common.errors import DataError
from rlhf.settings.evaluation import judge_name
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Row = dict[str, Any]
# of one comparison over all prompts
_FACTS = (
    "longer_win_rate",
    "orders_agree",
    "prefers_first_shown",
    "unjudged",
    "win_rate_length_controlled",
    "win_rate_length_controlled_low",
    "win_rate_length_controlled_high",
    "detectable_difference",
    "prompts_for_5_points",
)
# what judges and opponents report of themselves
_REPORTED = (
    "answers_asked",
    "answers_kept",
    "tokens_in",
    "tokens_out",
    "price",
    "price_with_kept",
    "votes",
    "annotators",
    "kappa",
)
_OF_MODELS = ("gold_score", "response_length", "distinct_2")
_KINDS = ("helpful", "harmless", "other")
_STAGE_MODELS = ("base", "sft", "policy")


@dataclass(frozen=True)
class Bar:
    """One win / tie / lose bar, shares in [0, 1]; interval and count only of our own results."""

    label: str
    win: float
    tie: float
    lose: float
    win_rate: float | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class ComparisonView:
    """All bars of one pair of models by one judge; without verdicts there are none.

    facts: over all prompts, None where one was not measured
    """

    challenger: str
    baseline: str
    judge: str
    bars: list[Bar]
    facts: Row = field(default_factory=dict)


def comparison_views(settings: Settings, details: Row) -> list[ComparisonView]:
    """Views in the order of the settings, the first judge's first.

    A comparison that the details do not hold has no bars. Raises DataError for details that an
    older version wrote.
    """
    # 1. the rows of the details, by what they compare
    rows = {}
    for row in _comparison_rows(details):
        rows[row["challenger"], row["baseline"], row["judge"]] = row

    # 2. the settings say which there are, and in which order
    views = []
    for judge in map(judge_name, settings.evaluate.judges):
        for challenger, baseline in settings.evaluate.comparisons:
            row = rows.get((challenger, baseline, judge), {"metrics": {}, "kinds": {}})
            facts = {key: row["metrics"].get(key) for key in _FACTS}
            views.append(ComparisonView(challenger, baseline, judge, _bars(row), facts))
    return views


def _comparison_rows(details: Row) -> list[Row]:
    """The comparisons of the details; none where the file is missing."""
    if not details:
        return []
    rows: list[Row] = details.get("comparisons", [])
    if not rows or "metrics" not in rows[0]:
        raise DataError(
            Workspace().details("evaluate"),
            "its comparisons have no `metrics`: an older version wrote it; run dvc repro evaluate",
        )
    return rows


def _bars(row: Row) -> list[Bar]:
    shares = {"all": row["metrics"]} | {kind: row["kinds"].get(kind, {}) for kind in _KINDS}
    return [
        _bar(label, metrics) for label, metrics in shares.items() if metrics.get("win") is not None
    ]


def _bar(label: str, shares: Mapping[str, Any]) -> Bar:
    return Bar(
        label=label,
        win=float(shares["win"]),
        tie=float(shares["tie"]),
        lose=float(shares["lose"]),
        win_rate=shares["win_rate"],
        low=shares["win_rate_low"],
        high=shares["win_rate_high"],
        count=shares["count"],
    )


def judge_rows(details: Row) -> list[Row]:
    """What judges and opponents report of themselves: what endpoints cost, who voted.

    Without anything to report: left out.
    """
    facts = {row["judge"]: row["facts"] for row in details.get("judges", [])}
    for row in details.get("opponents", []):
        facts[f"{row['opponent']}, as opponent"] = row["facts"]

    rows = []
    for name, reported in facts.items():
        row = {key: reported.get(key) for key in _REPORTED}
        # a judge may report what the page has no column for
        if any(value is not None for value in row.values()):
            rows.append({"judge": name} | row)
    return rows


def model_rows(views: Sequence[ComparisonView], details: Row) -> list[Row]:
    """What was measured of each model's responses: base, sft, policy, then others by name."""
    measured = {row["model"]: row for row in details.get("models", [])}
    names = {name for view in views for name in (view.challenger, view.baseline)}
    rows = []
    for name in sorted(names, key=_model_order):
        metrics = measured.get(name, {})
        rows.append({"name": name} | {key: metrics.get(key) for key in _OF_MODELS})
    return rows


def _model_order(name: str) -> tuple[int, str]:
    if name in _STAGE_MODELS:
        return _STAGE_MODELS.index(name), name
    return len(_STAGE_MODELS), name
