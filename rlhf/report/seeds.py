"""What many seeds of a preset came to: `python -m rlhf.report.seeds studies laptop` writes table and picture.

It reads the metrics of the workspaces `studies/<preset>-<precision>-seed-<seed>` that are done.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf.common.command import run_as_command
from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, write_text
from rlhf.report.inputs import JsonObject
from rlhf.studies.claims import interval
from rlhf.workspace import Workspace

_TIMED = ("sft", "reward", "ppo", "gold", "evaluate")
_HEAD = (
    "precision",
    "seed",
    "policy over SFT by gold",
    "at equal length",
    "by rules",
    "SFT over base by gold",
    "reward model, gold: accuracy",
    "KL",
    "explained variance",
    "minutes",
)


@dataclass(frozen=True)
class SeedResult:
    """One run of the chain: its metrics by stage, flat as `metrics/<stage>.json` has them."""

    precision: str
    seed: int
    metrics: dict[str, JsonObject]

    def shown_rate(self, key: str) -> str:
        """A win rate with its 95 % interval."""
        evaluated = self.metrics["evaluate"]
        low, high = evaluated.get(f"{key}_low"), evaluated.get(f"{key}_high")
        return _interval(evaluated.get(key), low, high)

    @property
    def is_above_half(self) -> bool:
        """Whether the whole interval of the headline lies above 0.5."""
        low = self.metrics["evaluate"]["win_rate_low"]
        return low is not None and float(low) > 0.5

    @property
    def seconds(self) -> float:
        """That the stages took which train or judge."""
        return sum(float(self.metrics[stage].get("seconds") or 0.0) for stage in _TIMED)


def build(folder: Path, preset: str) -> None:
    """Write `<preset>-seeds.md` and `.svg` in the folder; raises RlhfError where no run is done."""
    results = read_results(folder, preset)
    if not results:
        raise RlhfError(
            f"{folder}: no finished run of preset {preset}; python -m flows.seeds {preset}"
        )
    table = as_table(results)
    write_text(folder / f"{preset}-seeds.md", table)
    draw(results, folder / f"{preset}-seeds.svg")
    print(table, end="")


def read_results(folder: Path, preset: str) -> list[SeedResult]:
    """The runs that are done, by precision and seed."""
    results = []
    name = re.compile(rf"{re.escape(preset)}-(?P<precision>[a-z0-9]+)-seed-(?P<seed>\d+)")
    for path in folder.iterdir():
        match = name.fullmatch(path.name)
        workspace = Workspace(path)
        if match is None or not workspace.metrics("evaluate").is_file():
            continue
        metrics = {stage: read_json(workspace.metrics(stage)) for stage in _TIMED}
        results.append(SeedResult(match["precision"], int(match["seed"]), metrics))
    return sorted(results, key=lambda result: (result.precision, result.seed))


# -- the table -------------------------------------------------------------------------------------


def as_table(results: Sequence[SeedResult]) -> str:
    """A row a run, and for each precision the mean over seeds with its 95 % Student interval; Markdown."""
    lines = [_row(_HEAD), _row(["---"] * len(_HEAD))]
    for precision, group in groupby(results, key=lambda result: result.precision):
        runs = list(group)
        lines += [_row(_cells(run)) for run in runs]
        if len(runs) > 1:
            lines.append(_row(_pooled(precision, runs)))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(run: SeedResult) -> list[str]:
    ppo, reward, gold = (run.metrics[stage] for stage in ("ppo", "reward", "gold"))
    return [
        run.precision,
        str(run.seed),
        run.shown_rate("win_rate"),
        run.shown_rate("win_rate_length_controlled"),
        run.shown_rate("rules_win_rate"),
        run.shown_rate("sft_vs_base_win_rate"),
        f"{_number(reward.get('accuracy'))}, {_number(gold.get('accuracy'))}",
        _number(ppo.get("kl_last")),
        _number(ppo.get("explained_variance_last")),
        f"{run.seconds / 60:.0f}",
    ]


def _pooled(precision: str, runs: Sequence[SeedResult]) -> list[str]:
    above = sum(run.is_above_half for run in runs)
    rates = [
        _mean([run.metrics["evaluate"].get(key) for run in runs])
        for key in ("win_rate", "win_rate_length_controlled", "rules_win_rate")
    ]
    first = f"**{rates[0]}**, {above} of {len(runs)} above 0.5"
    return [precision, f"mean of {len(runs)}", first, *rates[1:], *[""] * (len(_HEAD) - 5)]


def _mean(rates: Sequence[float | None]) -> str:
    """Mean of the rates that there are, with its interval over seeds."""
    known = [rate for rate in rates if rate is not None]
    return _interval(*interval(known)) if len(known) > 1 else ""


def _interval(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if low is not None else f"{mean:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# -- the picture -----------------------------------------------------------------------------------


def draw(results: Sequence[SeedResult], path: Path) -> None:
    """A line a run: the win rate of the policy over SFT by gold and by rules, with their intervals."""
    figure = Figure(figsize=(6.4, 1.2 + 0.3 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    _intervals(axes, results, "win_rate", 0.12, "gold judge", "#0c7c76")
    _intervals(axes, results, "rules_win_rate", -0.12, "rule judge", "#8b929b")
    axes.axvline(0.5, color="#1c2126", linewidth=0.8)
    names = [f"{result.precision}, seed {result.seed}" for result in results]
    axes.set_yticks(range(len(results)), names)
    axes.invert_yaxis()
    axes.set_xlabel("win rate of the policy over SFT on held-out prompts, 95 %")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    # without the salt the ids in it would be drawn at random
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _intervals(
    axes: Axes, results: Sequence[SeedResult], key: str, shift: float, label: str, color: str
) -> None:
    rows = [
        (place - shift, result.metrics["evaluate"])
        for place, result in enumerate(results)
        if result.metrics["evaluate"].get(key) is not None
    ]
    rates = [row[key] for _, row in rows]
    below = [row[key] - row[f"{key}_low"] for _, row in rows]
    above = [row[f"{key}_high"] - row[key] for _, row in rows]
    places = [place for place, _ in rows]
    axes.errorbar(rates, places, xerr=[below, above], fmt="o", ms=4, color=color, label=label)


if __name__ == "__main__":
    sys.exit(run_as_command(lambda: build(Path(sys.argv[1]), sys.argv[2])))
