"""The judged comparisons as the page shows them: one view a pair of models and judge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.settings.evaluation import judge_name
from rlhf.settings.schema import Settings

Row = dict[str, Any]
_SHARES = ("win", "tie", "lose", "win_rate", "win_rate_low", "win_rate_high", "count")
_FACTS = (
    "longer_win_rate", "orders_agree", "prefers_first_shown", "unjudged", "win_rate_length_controlled",
    "win_rate_length_controlled_low", "win_rate_length_controlled_high", "detectable_difference", "prompts_for_5_points",
)  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One win / tie / lose bar, shares in [0, 1]; the interval and count only of our own results."""

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
    """All bars of one pair of models by one judge; `facts` of the whole, None where it has none."""

    challenger: str
    baseline: str
    judge: str
    bars: list[Bar]
    facts: Row = field(default_factory=dict)


def comparison_views(settings: Settings, summary: Row) -> list[ComparisonView]:
    """Views in the order of the settings, the first judge's first; the headline's keys carry no prefix."""
    views = []
    for place, address in enumerate(settings.evaluate.judges):
        judge = judge_name(address)
        for position, (challenger, baseline) in enumerate(settings.evaluate.comparisons):
            pair = f"{challenger}_vs_{baseline}_" if position else ""
            prefix = f"{pair}{judge}_" if place else pair
            bars = [
                _bar(label, {key: summary.get(f"{prefix}{key}{suffix}") for key in _SHARES})
                for label, suffix in (
                    ("all", ""),
                    ("helpful", "_helpful"),
                    ("harmless", "_harmless"),
                    ("other", "_other"),
                )
                if summary.get(f"{prefix}win{suffix}") is not None
            ]
            facts = {key: summary.get(f"{prefix}{key}") for key in _FACTS}
            views.append(ComparisonView(challenger, baseline, judge, bars, facts))
    return views


def judge_rows(settings: Settings, summary: Row) -> list[Row]:
    """What judges and opponents told of themselves: what endpoints cost, who voted; without anything to tell: left out."""
    keys = (
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
    names = {judge_name(address): judge_name(address) for address in settings.evaluate.judges}
    names |= {f"opponent_{name}": f"{name}, as opponent" for name in settings.evaluate.opponents}
    rows = [
        {"judge": shown} | {key: summary.get(f"{name}_{key}") for key in keys}
        for name, shown in names.items()
    ]
    return [row for row in rows if any(row[key] is not None for key in keys)]


def _bar(label: str, values: Row) -> Bar:
    shares = [float(values[key] or 0.0) for key in ("win", "tie", "lose")]
    interval = (values["win_rate"], values["win_rate_low"], values["win_rate_high"])
    return Bar(label, shares[0], shares[1], shares[2], *interval, values["count"])


def _model_order(name: str) -> tuple[int, str]:
    known = ["base", "sft", "policy"]
    return (known.index(name) if name in known else len(known), name)


def model_rows(views: Sequence[ComparisonView], summary: Row) -> list[Row]:
    """What was measured of each model's responses: base, sft, policy, then others by name."""
    names = {name for view in views for name in (view.challenger, view.baseline)}
    keys = ("gold_score", "response_length", "distinct_2")
    return [
        {"name": name} | {key: summary.get(f"{key}_{name}") for key in keys}
        for name in sorted(names, key=_model_order)
    ]
