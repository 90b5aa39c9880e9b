"""The page of a study: the paper's figures re-drawn from its runs, and the table of findings.

`python -m rlhf.report.study FIGURE ...` in a study's workspace reads `runs/<arm>.json`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from rlhf.common.command import run_as_command
from rlhf.common.files import read_json, write_json, write_text
from rlhf.report.figures import Panel
from rlhf.report.page import HERE, environment
from rlhf.report.svg import COLORS, canvas
from rlhf.settings import Settings, load_settings
from rlhf.studies.claims import START, Finding, judge
from rlhf.studies.figures import STUDIES
from rlhf.workspace import Workspace

SHADES = ("policy", "harmless", "sft", "other", "lose", "base", "tie")  # one an arm
DRAWN = (  # key, where it is, title, unit of the steps
    ("reward", "curves", "Reward"),
    ("gold", "looks", "Gold judge"),
    ("kl", "curves", "KL from SFT, nats per token"),
    ("perplexity", "curves", "Perplexity of own responses"),
    ("response_length", "curves", "Response length, tokens"),
    ("entropy", "curves", "Entropy, nats per token"),
)

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # by arm, one record a seed


@dataclass(frozen=True)
class FigureView:
    """One figure of the paper: its panels, what was found, and the ends of its arms."""

    name: str
    title: str
    panels: list[Panel]
    rows: list[dict[str, Any]]
    arms: list[dict[str, Any]]


def build(workspace: Workspace, figures: Sequence[str]) -> None:
    """Write `reports/index.html`, `reports/findings.json` (every row) and `metrics/findings.json` (how many of each)."""
    settings = load_settings(workspace.params)
    arms = dict.fromkeys(arm for figure in figures for arm in STUDIES[figure].arms)
    runs = {arm: read_json(workspace.root / "runs" / f"{arm}.json")["runs"] for arm in arms}
    views = [figure_view(name, runs) for name in figures]
    rows = [row for view in views for row in view.rows]
    verdicts = {
        name: sum(row["verdict"] == name for row in rows)
        for name in ("agrees", "differs", "inside the noise")
    }
    page = render(
        settings, views, verdicts, alarms(runs), os.environ.get("RLHF_GIT_COMMIT") or None
    )
    write_json(workspace.root / "reports" / "findings.json", {"findings": rows})
    write_text(workspace.report, page)
    write_json(
        workspace.metrics("findings"),
        {key.replace(" ", "_"): value for key, value in verdicts.items()},
    )


def figure_view(name: str, runs: Runs) -> FigureView:
    """Draw a figure's panels and hold its claims to the runs."""
    study = STUDIES[name]
    measured = {
        arm: {int(one["seed"]): one["summary"] for one in records}
        for arm, records in runs.items()
        if arm in study.arms
    }
    findings = [judge(claim, measured) for claim in study.claims]
    panels = [
        bands(f"{name}-{key}", title, key, where, {a: runs[a] for a in study.arms})
        for key, where, title in DRAWN
    ]
    return FigureView(
        name,
        study.title,
        panels,
        [finding_row(name, finding) for finding in findings if finding is not None],
        [arm_row(arm, runs[arm]) for arm in study.arms],
    )


def finding_row(figure: str, finding: Finding) -> dict[str, Any]:
    """One line of the table of findings."""
    claim = finding.claim
    against = "its own start" if claim.against == START else claim.against
    measured = asdict(finding) | {
        "figure": figure,
        "claim": claim.text,
        "metric": claim.metric,
        "arm": claim.arm,
    }
    bounded = {
        key: measured[key] if np.isfinite(measured[key]) else None for key in ("low", "high")
    }
    return measured | bounded | {"against": against, "paper": claim.direction}


def arm_row(arm: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds of where an arm ended, and in how many seeds the alarm fired."""
    summaries = [record["summary"] for record in records]
    keys = (
        "reward_last",
        "gold_last",
        "kl_last",
        "perplexity_last",
        "response_length_last",
        "plain_text_loss",
    )
    ends = {key: float(np.mean([summary[key] for summary in summaries])) for key in keys}
    best = [max(look["gold"] for look in record["looks"]) for record in records]
    fired = sum(bool(summary["collapsed"]) for summary in summaries)
    return {
        "arm": arm,
        **ends,
        "gold_best": float(np.mean(best)),
        "alarms": f"{fired} of {len(records)}",
    }


def alarms(runs: Runs) -> list[tuple[str, list[str]]]:
    """For vanilla PPO and PPO-max: when the alarm fired, seed by seed."""
    return [
        (arm, [f"seed {one['seed']}: {_step(one['summary'])}" for one in runs[arm]])
        for arm in ("vanilla", "ppo-max")
        if arm in runs
    ]


def _step(summary: Mapping[str, Any]) -> str:
    return f"iteration {summary['collapse_step']}" if summary["collapsed"] else "silent"


def bands(name: str, title: str, key: str, where: str, runs: Runs) -> Panel:
    """Mean over seeds of a curve for every arm, with the band between the lowest and the highest seed."""
    drawn = []
    with canvas(name, title) as drawing:
        for (arm, records), shade in zip(runs.items(), SHADES, strict=False):
            series = [
                {row["step"]: row[key] for row in record[where] if key in row} for record in records
            ]
            steps = sorted(set.intersection(*(set(one) for one in series)))
            if not steps:
                continue
            values = np.array([[one[step] for step in steps] for one in series], dtype=np.float64)
            color = COLORS[shade]
            drawing.axes.fill_between(
                steps, values.min(0), values.max(0), color=color, alpha=0.16, linewidth=0
            )
            drawing.axes.plot(steps, values.mean(0), color=color, linewidth=1.4)
            drawn.append((arm, shade))
        drawing.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        drawing.axes.set_xlabel("iteration")
    return Panel(title, drawing.markup if drawn else None, legend=tuple(drawn))


def render(
    settings: Settings,
    views: Sequence[FigureView],
    verdicts: Mapping[str, int],
    fired: Sequence[tuple[str, list[str]]],
    commit: str | None,
) -> str:
    """The whole page as HTML text."""
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))  # ours, not data
    page = environment().get_template("study.html")
    return page.render(
        style=style, settings=settings, views=views, verdicts=verdicts, fired=fired, commit=commit
    )


if __name__ == "__main__":
    sys.exit(run_as_command(lambda: build(Workspace(Path()), sys.argv[1:])))
