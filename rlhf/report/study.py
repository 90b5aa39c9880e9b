"""The page of a study: the paper's figures re-drawn from its runs, and the table of findings.

`python -m rlhf.report.study FIGURE ...` in a study's workspace reads `runs/<arm>.json`.
"""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from rlhf.common.command import run_as_command
from rlhf.common.files import read_json, write_json, write_text
from rlhf.report.build import commit_from_environment
from rlhf.report.figures import Panel
from rlhf.report.inputs import JsonObject
from rlhf.report.page import render_template
from rlhf.report.seed_bands import plot_seed_bands
from rlhf.settings import load_settings
from rlhf.studies.claims import START, Claim, Finding, Verdict, judge
from rlhf.studies.figures import STUDIES
from rlhf.workspace import Workspace

# by arm, one record a seed: what `rlhf.studies.run` writes
RunsByArm = Mapping[str, Sequence[JsonObject]]

# what the table of arms shows, each the mean over seeds
_ARM_METRICS = (
    "reward_last",
    "gold_last",
    "kl_last",
    "perplexity_last",
    "response_length_last",
    "plain_text_loss",
    "credit_auc_last",
)
# the two arms that the collapse alarm must tell apart
_ALARM_ARMS = ("vanilla", "ppo-max")


@dataclass(frozen=True)
class FigureView:
    """One figure of the paper: its panels, a row for each finding, a row for each arm."""

    name: str
    title: str
    panels: list[Panel]
    findings: list[JsonObject]
    arms: list[JsonObject]


def build_study(workspace: Workspace, figures: Sequence[str]) -> None:
    """Write the page and the findings of these figures, names of `STUDIES`.

    reports/index.html: the page; reports/findings.json: every finding;
    metrics/findings.json: how many findings there are of each verdict.
    """
    # 1. the runs; several figures may show the same arm
    settings = load_settings(workspace.params)
    arms = dict.fromkeys(arm for figure in figures for arm in STUDIES[figure].arms)
    runs = {arm: read_json(workspace.root / "runs" / f"{arm}.json")["runs"] for arm in arms}

    # 2. what they say of the paper's claims; a verdict that no finding has is counted as 0
    views = [figure_view(name, runs) for name in figures]
    findings = [finding for view in views for finding in view.findings]
    counts = Counter(finding["verdict"] for finding in findings)
    verdicts = {verdict: counts[verdict] for verdict in get_args(Verdict)}

    # 3. the page, and the same findings for programs
    page = render_template(
        "study.html",
        settings=settings,
        views=views,
        verdicts=verdicts,
        alarms=alarms(runs),
        commit=commit_from_environment(),
    )
    write_json(workspace.root / "reports" / "findings.json", {"findings": findings})
    write_text(workspace.report, page)
    write_json(
        workspace.metrics("findings"),
        {verdict.replace(" ", "_"): count for verdict, count in verdicts.items()},
    )


def figure_view(name: str, runs: RunsByArm) -> FigureView:
    """Draw a figure's panels and compare its claims with the runs."""
    study = STUDIES[name]
    runs = {arm: runs[arm] for arm in study.arms}
    findings = [judge(claim, _summaries(runs)) for claim in study.claims]
    return FigureView(
        name,
        study.title,
        panels=plot_seed_bands(name, runs),
        findings=[finding_row(name, finding) for finding in findings if finding is not None],
        arms=[arm_row(arm, records) for arm, records in runs.items()],
    )


def finding_row(figure: str, finding: Finding) -> JsonObject:
    """One row of the table of findings, and of `findings.json`."""
    claim = finding.claim
    return {
        "figure": figure,
        "claim": claim.text,
        "metric": claim.metric,
        "arm": claim.arm,
        "against": _other_side(claim),
        "paper": claim.direction,
        "difference": finding.difference,
        # the interval of a single seed is infinite, which JSON cannot hold
        "low": finding.low if math.isfinite(finding.low) else None,
        "high": finding.high if math.isfinite(finding.high) else None,
        "seeds": finding.seeds,
        "verdict": finding.verdict,
    }


def _other_side(claim: Claim) -> str:
    if claim.against == START:
        return "its own start"
    return f"{claim.against}, {claim.baseline}" if claim.baseline else claim.against


def arm_row(arm: str, records: Sequence[JsonObject]) -> JsonObject:
    """Means over seeds of where an arm ended, and in how many seeds the collapse alarm fired."""
    summaries = [record["summary"] for record in records]
    best_gold = [_best_gold(record) for record in records]
    # null where an algorithm has none of the signals that the alarm reads
    fired = sum(bool(summary["collapsed"]) for summary in summaries)
    return {
        "arm": arm,
        **{key: _mean(summaries, key) for key in _ARM_METRICS},
        "gold_best": float(np.mean(best_gold)),
        "alarms": f"{fired} of {len(records)}",
    }


def alarms(runs: RunsByArm) -> list[tuple[str, list[str]]]:
    """For vanilla PPO and PPO-max: when the alarm fired, seed by seed."""
    described = []
    for arm in _ALARM_ARMS:
        # not every figure has both
        if arm in runs:
            described.append((arm, [_describe_alarm(record) for record in runs[arm]]))
    return described


def _summaries(runs: RunsByArm) -> dict[str, dict[int, JsonObject]]:
    """Summaries by arm and seed."""
    by_arm = {}
    for arm, records in runs.items():
        by_arm[arm] = {int(record["seed"]): record["summary"] for record in records}
    return by_arm


def _mean(summaries: Sequence[JsonObject], key: str) -> float | None:
    """None for what an algorithm does not measure: one that draws nothing has no reward of its own."""
    values = [summary[key] for summary in summaries if key in summary]
    return float(np.mean(values)) if values else None


def _best_gold(record: JsonObject) -> float:
    """The highest gold score of any validation of a run."""
    return max(validation["gold"] for validation in record["looks"])


def _describe_alarm(record: JsonObject) -> str:
    summary = record["summary"]
    fired = f"iteration {summary['collapse_step']}" if summary["collapsed"] else "silent"
    return f"seed {record['seed']}: {fired}"


if __name__ == "__main__":
    sys.exit(run_as_command(lambda: build_study(Workspace(Path()), sys.argv[1:])))
