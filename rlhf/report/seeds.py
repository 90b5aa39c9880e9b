"""What many seeds of a preset came to: `python -m rlhf.report.seeds studies laptop` writes table and picture.

It reads the metrics of the workspaces `studies/<preset>-<precision>-seed-<seed>` that are done and have
the same settings: those of the workspace that is named last, else of the one that was judged last.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf.common.command import run_as_command
from rlhf.common.errors import RlhfError
from rlhf.common.files import write_text
from rlhf.report.seed_runs import SeedResult, read_results
from rlhf.studies.claims import interval

# of the headline's pair by its judge, at equal length, by rules
_RATES = ("win_rate", "win_rate_length_controlled", "rules_win_rate")


def build(folder: Path, preset: str, like: str | None = None) -> None:
    """Write `<preset>-seeds.md` and `.svg` in the folder; raises RlhfError where no run is done."""
    results, left_out = read_results(folder, preset, like)
    if not results:
        told = "".join(f"; {line}" for line in _lines(left_out))
        raise RlhfError(
            f"{folder}: no finished run of preset {preset}; python -m flows.seeds {preset}{told}"
        )
    text = as_table(results)
    if left_out:
        text += "\nLeft out:\n\n" + "".join(f"- {line}\n" for line in _lines(left_out))
    write_text(folder / f"{preset}-seeds.md", text)
    draw(results, folder / f"{preset}-seeds.svg")
    print(text, end="")


def _lines(left_out: Mapping[str, str]) -> list[str]:
    return [f"{name}: {reason}" for name, reason in sorted(left_out.items())]


# -- the table -------------------------------------------------------------------------------------


def as_table(results: Sequence[SeedResult]) -> str:
    """A row a run, and for each precision the mean over seeds with its 95 % Student interval; Markdown."""
    head = _head(*results[0].headline)
    lines = [_row(head), _row(["---"] * len(head))]
    for precision, group in groupby(results, key=lambda result: result.precision):
        runs = list(group)
        lines += [_row(_cells(run)) for run in runs]
        if len(runs) > 1:
            cells = _pooled(precision, runs)
            lines.append(_row([*cells, *[""] * (len(head) - len(cells))]))
    return "\n".join(lines) + "\n"


def _head(compared: str, judge: str) -> list[str]:
    return [
        "precision",
        "seed",
        f"{compared.replace(' with ', ' over ')} by {judge}",
        "at equal length",
        "by rules",
        f"sft over base by {judge}",
        "reward model, gold: accuracy",
        "KL",
        "explained variance",
        "minutes",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(run: SeedResult) -> list[str]:
    ppo, reward, gold = (run.metrics[stage] for stage in ("ppo", "reward", "gold"))
    accuracies = [_number(metrics.get("accuracy")) for metrics in (reward, gold)]
    return [
        run.precision,
        str(run.seed),
        *(_rate(run, key) for key in (*_RATES, "sft_vs_base_win_rate")),
        ", ".join(accuracies) if any(accuracies) else "",
        _number(ppo.get("kl_last")),
        _number(ppo.get("explained_variance_last")),
        f"{run.seconds / 60:.0f}",
    ]


def _rate(run: SeedResult, key: str) -> str:
    """A win rate with its 95 % interval."""
    return _interval(*(run.evaluated.get(name) for name in (key, f"{key}_low", f"{key}_high")))


def _pooled(precision: str, runs: Sequence[SeedResult]) -> list[str]:
    first, *others = (_mean([run.evaluated.get(key) for run in runs]) for key in _RATES)
    if first:
        judged = sum(run.evaluated.get("win_rate_low") is not None for run in runs)
        above = sum(run.is_above_half for run in runs)
        first = f"**{first}**, {above} of {judged} above 0.5"
    return [precision, f"mean of {len(runs)}", first, *others]


def _mean(rates: Sequence[float | None]) -> str:
    """Mean of the rates that there are, with its interval over seeds, and how many if not all have one."""
    known = [rate for rate in rates if rate is not None]
    if not known:
        return ""
    mean, low, high = interval(known)
    # Student's knows no ends; a single one has no interval
    bounds = (max(0.0, low), min(1.0, high)) if len(known) > 1 else (None, None)
    count = f" of {len(known)}" if len(known) < len(rates) else ""
    return _interval(mean, *bounds) + count


def _interval(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return ""
    has_both = low is not None and high is not None
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if has_both else f"{mean:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# -- the picture -----------------------------------------------------------------------------------


def draw(results: Sequence[SeedResult], path: Path) -> None:
    """A line a run: the headline's win rate, and that of the same models by rules, with their intervals."""
    compared, judge = results[0].headline
    challenger, _, baseline = compared.partition(" with ")
    figure = Figure(figsize=(6.4, 1.2 + 0.3 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    _intervals(axes, results, "win_rate", 0.12, f"judge {judge}", "#0c7c76")
    _intervals(axes, results, "rules_win_rate", -0.12, "judge rules", "#8b929b")
    axes.axvline(0.5, color="#1c2126", linewidth=0.8)
    names = [f"{result.precision}, seed {result.seed}" for result in results]
    axes.set_yticks(range(len(results)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"win rate of {challenger} over {baseline} on held-out prompts, 95 %")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    # without the salt the ids in it would be drawn at random
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _intervals(
    axes: Axes, results: Sequence[SeedResult], key: str, shift: float, label: str, color: str
) -> None:
    rows = [
        (place - shift, rate, _reach(result, key, rate))
        for place, result in enumerate(results)
        if (rate := result.evaluated.get(key)) is not None
    ]
    rates, places = [rate for _, rate, _ in rows], [place for place, _, _ in rows]
    reach = [list(side) for side in zip(*(both for _, _, both in rows), strict=True)]
    axes.errorbar(rates, places, xerr=reach or None, fmt="o", ms=4, color=color, label=label)


def _reach(result: SeedResult, key: str, rate: float) -> tuple[float, float]:
    """How far the interval of a rate goes below and above it; nowhere without one."""
    low, high = (result.evaluated.get(f"{key}_{end}") for end in ("low", "high"))
    return (0.0, 0.0) if low is None or high is None else (rate - low, high - rate)


if __name__ == "__main__":
    sys.exit(run_as_command(lambda: build(Path(sys.argv[1]), *sys.argv[2:])))
