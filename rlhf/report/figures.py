"""The figures of the report other than curves: numbers in, a `Panel` out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rlhf.report.inputs import JsonObject
from rlhf.report.svg import COLORS, svg_canvas

# histograms that fit one above the other in a panel
_MAX_RIDGES = 9
# height of the highest bin of a ridge, where the next ridge begins at 1: they overlap a little
_RIDGE_HEIGHT = 1.35

# lines that are no data: chance, zero, the diagonal
REFERENCE_LINE: dict[str, Any] = {"color": COLORS["muted"], "linestyle": (0, (2, 3))}

Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """One figure with its caption. Title, note and legend are HTML, so that they can wrap.

    svg: None where there was nothing to draw
    legend: (label, name of its colour in `svg.COLORS`)
    collapse_signal: it shows one of the three signals of collapse (section 5.2)
    """

    title: str
    svg: Markup | None
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    collapse_signal: bool = False


@dataclass(frozen=True)
class GroupedHistogram:
    """Counts of several groups over common bins.

    edges: of the bins, [N + 1], ascending; counts: [N] of each group
    """

    edges: Sequence[float] = ()
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ChartBar:
    """One model's bar: its value, and half the width of its 95 % interval if there is one."""

    model: str
    value: float
    half_width: float | None = None


# -- histograms --


def stacked_histogram(
    name: str, title: str, histogram: GroupedHistogram, note: str = "", x_label: str = ""
) -> Panel:
    """Bars of all groups on top of each other, with a line at 0."""
    # a group without counts would stand in the legend, and nowhere in the figure
    groups = {group: counts for group, counts in histogram.counts.items() if sum(counts)}
    if len(histogram.edges) < 2 or not groups:
        return Panel(title, None, note)

    left = np.asarray(histogram.edges[:-1])
    right = np.asarray(histogram.edges[1:])
    # [N], where the bars of the next group begin
    bottom = np.zeros(len(left))

    with svg_canvas(name, title) as drawing:
        axes = drawing.axes
        for group, counts in groups.items():
            axes.bar(
                left,
                counts,
                width=right - left,
                bottom=bottom,
                align="edge",
                color=COLORS[color_of(group)],
                linewidth=0,
                alpha=0.85,
            )
            bottom = bottom + np.asarray(counts)
        axes.axvline(0, color=COLORS["ink"], linewidth=0.9)
        _count_axis(axes.yaxis)
        axes.set_xlabel(x_label)

    return Panel(title, drawing.markup, note, _legend(groups))


def outlined_histogram(
    name: str, title: str, histogram: GroupedHistogram, note: str = "", x_label: str = ""
) -> Panel:
    """Outlines of all groups over each other, faintly filled."""
    if len(histogram.edges) < 2 or not histogram.counts:
        return Panel(title, None, note)

    with svg_canvas(name, title) as drawing:
        axes = drawing.axes
        for group, counts in histogram.counts.items():
            color = COLORS[color_of(group)]
            axes.stairs(counts, histogram.edges, color=color, linewidth=1.5)
            # so faint that the outlines behind it can be seen
            axes.stairs(
                counts,
                histogram.edges,
                color=color,
                fill=True,
                alpha=0.10,
                linewidth=0,
            )
        _count_axis(axes.yaxis)
        axes.set_xlabel(x_label)

    return Panel(title, drawing.markup, note, _legend(histogram.counts))


def ridgeline_plot(
    name: str, title: str, histograms: Sequence[JsonObject], note: str = ""
) -> Panel:
    """Distributions over training as ridges, the first at the top.

    histograms: each with `step`, `edges` [N + 1] and `counts` [N]; of many, some evenly spaced
        ones are shown. Each ridge is scaled to its own highest bin.
    """
    filled = [row for row in histograms if sum(row.get("counts", []))]
    shown = evenly_spaced(filled, _MAX_RIDGES)
    if not shown:
        return Panel(title, None, note)

    # a level is a height on the y axis: the last distribution stands at level 0
    from_below = list(reversed(shown))
    with svg_canvas(name, title, height=0.9 + 0.38 * len(shown)) as drawing:
        axes = drawing.axes
        for level, row in enumerate(from_below):
            # lower ridges are in front of those behind them, and all in front of the axes
            zorder = 10 + 2 * (len(shown) - level)
            _draw_ridge(axes, row, level, zorder)
        axes.set_yticks(range(len(shown)), [f"{row['step']}" for row in from_below])
        axes.set_ylabel("iteration")
        axes.set_xlabel("score of the reward model")
        axes.grid(False)

    return Panel(title, drawing.markup, note)


def _draw_ridge(axes: Axes, row: JsonObject, level: int, zorder: int) -> None:
    edges = np.asarray(row["edges"], dtype=np.float64)
    counts = np.asarray(row["counts"], dtype=np.float64)

    # from the middle of each bin to the next; the outline ends at its level on both sides
    middles = (edges[:-1] + edges[1:]) / 2
    heights = counts / counts.max()
    x = np.concatenate([[edges[0]], middles, [edges[-1]]])
    y = level + _RIDGE_HEIGHT * np.concatenate([[0.0], heights, [0.0]])

    fill: dict[str, Any] = {"linewidth": 0, "zorder": zorder}
    # first in the colour of the page, to cover the ridge behind it
    axes.fill_between(x, level, y, color=COLORS["surface"], **fill)
    axes.fill_between(x, level, y, color=COLORS["policy"], alpha=0.28, **fill)
    axes.plot(x, y, color=COLORS["policy"], linewidth=1.1, zorder=zorder + 1)


# -- bars and calibration --


def bar_chart(
    name: str, title: str, bars: Sequence[ChartBar], note: str = "", percent: bool = False
) -> Panel:
    """One bar a model from 0 up, its value written on it, its interval as a whisker."""
    with svg_canvas(name, title) as drawing:
        axes = drawing.axes
        for x, bar in enumerate(bars):
            text = f"{100 * bar.value:.0f} %" if percent else f"{bar.value:.2f}"
            _draw_bar(axes, x, bar, text)
        axes.set_xticks(range(len(bars)), [bar.model for bar in bars])
        if percent:
            percent_axis(axes.yaxis)
        axes.set_ylim(bottom=0)

    return Panel(title, drawing.markup, note)


def _draw_bar(axes: Axes, x: int, bar: ChartBar, text: str) -> None:
    axes.bar(
        x,
        bar.value,
        width=0.6,
        color=COLORS[color_of(bar.model)],
        alpha=0.85,
        linewidth=0,
    )
    if bar.half_width is not None:
        axes.errorbar(
            x,
            bar.value,
            yerr=bar.half_width,
            color=COLORS["ink"],
            capsize=3,
            linewidth=1,
        )
    # in the middle of the bar, where no whisker crosses it
    axes.annotate(text, (x, bar.value / 2), ha="center", color=COLORS["surface"])


def calibration_plot(
    name: str,
    title: str,
    bins: Sequence[JsonObject],
    note: str = "",
    x_label: str = "predicted: sigmoid of the margin",
) -> Panel:
    """Observed share of right pairs against the predicted one; a larger dot holds more pairs.

    bins: each with `predicted` and `observed` in [0, 1] and `count`; empty bins are left out
    """
    filled = [row for row in bins if row.get("count")]
    if not filled:
        return Panel(title, None, note)

    predicted = np.array([float(row["predicted"]) for row in filled])
    observed = np.array([float(row["observed"]) for row in filled])
    count = np.array([float(row["count"]) for row in filled])

    # chance is the least that a model should be sure of; bins below it widen the axes
    low = min(0.5, float(predicted.min()), float(observed.min()))
    diagonal = [low, 1]
    dot_sizes = 14 + 130 * count / count.max()

    with svg_canvas(name, title) as drawing:
        axes = drawing.axes
        # where a perfectly calibrated model would be
        axes.plot(diagonal, diagonal, linewidth=0.9, **REFERENCE_LINE)
        axes.plot(predicted, observed, color=COLORS["policy"], linewidth=1.0, alpha=0.6)
        axes.scatter(predicted, observed, s=dot_sizes, color=COLORS["policy"], linewidths=0)
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_xlabel(x_label)
        axes.set_ylabel("observed")

    return Panel(title, drawing.markup, note)


# -- what several figures share --


def color_of(group: str) -> str:
    """The name of the colour of a model or a kind of prompt; those without one share "other"."""
    return group if group in COLORS else "other"


def percent_axis(axis: Axis) -> None:
    """Label shares in [0, 1] as percentages."""
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{100 * value:g} %"))


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items (at least 2) at even distances, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    last = len(items) - 1
    return [items[round(index * last / (count - 1))] for index in range(count)]


def _count_axis(axis: Axis) -> None:
    # half a row does not exist
    axis.set_major_locator(MaxNLocator(4, integer=True))


def _legend(groups: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((group, color_of(group)) for group in groups)
