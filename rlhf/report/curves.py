"""Curves over the steps of a training log: which keys, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from rlhf.report.figures import REFERENCE_LINE, Panel, percent_axis
from rlhf.report.inputs import JsonObject
from rlhf.report.svg import COLORS, svg_canvas

# longer curves are drawn faintly, with their running mean on top
_SMOOTH_FROM_POINTS = 80


@dataclass(frozen=True)
class Curve:
    """One key of a step log as a line.

    color: a name in `svg.COLORS`
    markers: a dot on each point, for curves of few points
    smooth: a long curve gets a running mean; False for what has no noise
    """

    key: str
    label: str
    color: str = "policy"
    dashed: bool = False
    markers: bool = False
    smooth: bool = True


@dataclass(frozen=True)
class CurvePlot:
    """A panel of curves.

    name: of the figure, unique on the page; x_label: what a step is
    percent: values are shares in [0, 1]; log_scale: where all values are positive
    collapse_signal: it shows one of the three signals of collapse (section 5.2)
    reference_levels: values marked by a thin line, such as chance
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    note: str = ""
    x_label: str = "iteration"
    percent: bool = False
    log_scale: bool = False
    collapse_signal: bool = False
    reference_levels: tuple[float, ...] = ()


@dataclass(frozen=True)
class LogSeries:
    """One key of a step log: steps [N] and float64 values [N], in the order of the log."""

    steps: np.ndarray
    values: np.ndarray


def plot_curves(plot: CurvePlot, rows: Sequence[JsonObject]) -> Panel:
    """Draw the curves whose keys are in the log; without any of them the panel is empty."""
    drawn: list[tuple[Curve, LogSeries]] = []
    for curve in plot.curves:
        series = read_series(rows, curve.key)
        if len(series.steps):
            drawn.append((curve, series))
    if not drawn:
        return Panel(plot.title, None, plot.note, collapse_signal=plot.collapse_signal)

    with svg_canvas(plot.name, plot.title) as drawing:
        axes = drawing.axes
        for curve, series in drawn:
            _draw_curve(axes, curve, series)
        for level in plot.reference_levels:
            axes.axhline(level, linewidth=0.8, **REFERENCE_LINE)

        values = np.concatenate([series.values for _, series in drawn])
        steps = np.concatenate([series.steps for _, series in drawn])
        # a logarithmic axis would leave out what is zero or negative
        if plot.log_scale and values.min() > 0:
            _log_axis(axes)
        _shade_negative_steps(axes, steps.min())
        if plot.percent:
            percent_axis(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(plot.x_label)

    # a panel made for one curve needs no legend: its title says what it is
    legend = tuple((curve.label, curve.color) for curve, _ in drawn)
    return Panel(
        plot.title,
        drawing.markup,
        plot.note,
        legend if len(plot.curves) > 1 else (),
        plot.collapse_signal,
    )


def read_series(rows: Sequence[JsonObject], key: str) -> LogSeries:
    """Collect a key of a step log; rows without it, or without a number there, are left out."""
    with_key = [row for row in rows if isinstance(row.get(key), int | float)]
    steps = np.array([row["step"] for row in with_key])
    values = np.array([row[key] for row in with_key], dtype=np.float64)
    return LogSeries(steps, values)


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean of each value [N] with up to `reach` neighbours on either side, fewer at the ends."""
    # sums[i] is the sum of the first i values: a window's sum is a difference of two
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - reach, 0)
    high = np.minimum(index + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _draw_curve(axes: Axes, curve: Curve, series: LogSeries) -> None:
    steps, values = series.steps, series.values
    color = COLORS[curve.color]
    style: Any = (0, (4, 2)) if curve.dashed else "-"

    if not curve.smooth or len(steps) < _SMOOTH_FROM_POINTS:
        # a single point makes no line: without a marker it would not be seen
        marker = "o" if curve.markers or len(steps) == 1 else ""
        axes.plot(steps, values, color=color, linestyle=style, marker=marker, markersize=3.2)
        return

    # about a fifteenth of the curve
    reach = max(3, len(values) // 30)
    axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
    axes.plot(steps, running_mean(values, reach), color=color, linestyle=style)


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    # ticks at 1, 2 and 5 times powers of ten, written out: 0.05, not 5 x 10^-2
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _shade_negative_steps(axes: Axes, first: float) -> None:
    """Grey behind the steps before 0, in which the critic is trained alone."""
    if first < 0:
        axes.axvspan(first - 0.5, -0.5, color=COLORS["grid"], alpha=0.7, linewidth=0)
