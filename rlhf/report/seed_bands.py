"""Curves of several arms over several seeds: the mean, and the band between lowest and highest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rlhf.report.figures import Panel
from rlhf.report.inputs import JsonObject
from rlhf.report.svg import COLORS, svg_canvas

# one an arm, in the order of the arms
_ARM_COLORS = (
    *("policy", "harmless", "sft", "other", "lose", "base"),
    *("extra-1", "extra-2", "extra-3", "extra-4", "extra-5", "extra-6", "tie"),
)


@dataclass(frozen=True)
class BandPlot:
    """A metric of the runs.

    part: the list of a run's record that holds it by step
    only_if_measured: whether there is no panel where no run has it
    """

    key: str
    part: str
    title: str
    only_if_measured: bool = False


_PLOTS = (
    BandPlot("reward", "curves", "Reward"),
    BandPlot("gold", "looks", "Gold judge"),
    BandPlot("kl", "curves", "KL from SFT, nats per token"),
    BandPlot("perplexity", "curves", "Perplexity of own responses"),
    BandPlot("response_length", "curves", "Response length, tokens"),
    BandPlot("entropy", "curves", "Entropy, nats per token"),
    BandPlot("right", "looks", "Right answers, share", only_if_measured=True),
    BandPlot("flawed", "looks", "Of these, with a wrong line", only_if_measured=True),
)


@dataclass(frozen=True)
class PathPlot:
    """The gold judge against what a policy had cost, from validation to validation."""

    key: str
    title: str
    x_label: str
    note: str


_PATHS = (
    PathPlot(
        key="kl",
        title="Gold judge against KL",
        x_label="KL from SFT, nats per token",
        note="Mean over seeds at each validation. Higher and further left is better.",
    ),
    PathPlot(
        key="tokens",
        title="Gold judge against sampled tokens",
        x_label="response tokens sampled so far",
        note="Mean over seeds at each validation. What learns without sampling stays at 0.",
    ),
)


def plot_seed_bands(figure: str, runs: Mapping[str, Sequence[JsonObject]]) -> list[Panel]:
    """The panels of a figure; `runs` holds the records of each arm, one a seed."""
    if len(runs) > len(_ARM_COLORS):
        raise ValueError(f"{figure}: {len(runs)} arms, and colours for {len(_ARM_COLORS)}")
    plots = [plot for plot in _PLOTS if _measured(plot, runs) or not plot.only_if_measured]
    bands = [_plot(f"{figure}-{plot.key}", plot, runs) for plot in plots]
    paths = [_plot_path(f"{figure}-gold-{plot.key}", plot, runs) for plot in _PATHS]
    return bands + paths


def _measured(plot: BandPlot, runs: Mapping[str, Sequence[JsonObject]]) -> bool:
    records = [record for arm in runs.values() for record in arm]
    return any(plot.key in row for record in records for row in record[plot.part])


def _plot_path(name: str, plot: PathPlot, runs: Mapping[str, Sequence[JsonObject]]) -> Panel:
    legend = []
    with svg_canvas(name, plot.title) as drawing:
        for (arm, records), color in zip(runs.items(), _ARM_COLORS, strict=False):
            across, gold = _mean_of_looks(records, plot.key), _mean_of_looks(records, "gold")
            if across is None or gold is None:
                continue
            drawing.axes.plot(
                across, gold, color=COLORS[color], linewidth=1.2, marker="o", markersize=2.4
            )
            legend.append((arm, color))
        drawing.axes.set_xlabel(plot.x_label)
    return Panel(plot.title, drawing.markup if legend else None, plot.note, tuple(legend))


def _mean_of_looks(records: Sequence[JsonObject], key: str) -> list[float] | None:
    """The mean over seeds at each validation that all of them reached; None where it was not kept."""
    series = [[row.get(key) for row in record["looks"]] for record in records]
    reached = list(zip(*series, strict=False))
    if any(value is None for values in reached for value in values):
        return None
    return [float(np.mean(values)) for values in reached]


def _plot(name: str, plot: BandPlot, runs: Mapping[str, Sequence[JsonObject]]) -> Panel:
    legend = []
    with svg_canvas(name, plot.title) as drawing:
        axes = drawing.axes
        for (arm, records), color in zip(runs.items(), _ARM_COLORS, strict=False):
            if _draw_arm(axes, plot, records, color):
                legend.append((arm, color))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("iteration")
    return Panel(plot.title, drawing.markup if legend else None, legend=tuple(legend))


def _draw_arm(axes: Axes, plot: BandPlot, records: Sequence[JsonObject], color: str) -> bool:
    """Draw one arm over the steps that all of its seeds have; False where there are none."""
    # the mean of a step that a seed lacks would jump for no reason but the seed
    by_seed = [_by_step(plot, record) for record in records]
    steps = sorted(set.intersection(*map(set, by_seed)))
    if not steps:
        return False

    # [seeds, steps]
    values = np.empty((len(by_seed), len(steps)))
    for seed, series in enumerate(by_seed):
        values[seed] = [series[step] for step in steps]

    axes.fill_between(
        steps,
        values.min(axis=0),
        values.max(axis=0),
        color=COLORS[color],
        alpha=0.16,
        linewidth=0,
    )
    axes.plot(steps, values.mean(axis=0), color=COLORS[color], linewidth=1.4)
    return True


def _by_step(plot: BandPlot, record: JsonObject) -> dict[int, float]:
    """The metric of one run by step; rows that do not have it are left out."""
    return {row["step"]: row[plot.key] for row in record[plot.part] if plot.key in row}
