"""The figures of the report: numbers in, `Panel` out. Titles, notes and legends are HTML, so that they wrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from rlhf.report.svg import COLORS, Canvas, canvas

_SMOOTH_FROM = 80  # points: longer curves are drawn faint, with their running mean on top
_RIDGES = 9  # histograms that fit one above the other

Row = Mapping[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """One figure with its caption; `legend` pairs a label with the name of a colour. No `svg`: nothing to draw."""

    title: str
    svg: Markup | None
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    watch: bool = False  # one of the three signals of collapse (section 5.2)


@dataclass(frozen=True)
class Curve:
    """One key of a step log as a line."""

    key: str
    label: str
    color: str = "policy"
    dashed: bool = False
    marked: bool = False  # few points: a dot on each
    exact: bool = False  # no noise in it: never drawn as a running mean


@dataclass(frozen=True)
class Lines:
    """A panel of curves over the steps of a log."""

    name: str
    title: str
    curves: tuple[Curve, ...]
    note: str = ""
    unit: str = "iteration"
    percent: bool = False
    log: bool = False
    watch: bool = False
    levels: tuple[float, ...] = ()  # values marked by a thin line, such as chance


def lines(panel: Lines, rows: Sequence[Row]) -> Panel:
    """Draw what the log holds of the panel's keys; without any of them the panel is empty."""
    found = [(curve, _points(rows, curve.key)) for curve in panel.curves]
    found = [(curve, points) for curve, points in found if len(points[0])]
    legend = (
        tuple((curve.label, curve.color) for curve, _ in found) if len(panel.curves) > 1 else ()
    )
    if not found:
        return Panel(panel.title, None, panel.note, watch=panel.watch)
    with canvas(panel.name, panel.title) as drawing:
        axes = drawing.axes
        for curve, (steps, values) in found:
            _draw_curve(drawing, curve, steps, values)
        for level in panel.levels:
            axes.axhline(level, color=COLORS["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
        if panel.log and all((values > 0).all() for _, (_, values) in found):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        first = min(steps.min() for _, (steps, _) in found)
        if first < 0:
            axes.axvspan(first - 0.5, -0.5, color=COLORS["grid"], alpha=0.7, linewidth=0)
        if panel.percent:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(panel.unit)
    return Panel(panel.title, drawing.markup, panel.note, legend, panel.watch)


def _points(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return np.array([step for step, _ in pairs]), np.array(
        [value for _, value in pairs], dtype=np.float64
    )


def _draw_curve(drawing: Canvas, curve: Curve, steps: np.ndarray, values: np.ndarray) -> None:
    color = COLORS[curve.color]
    style: Any = (0, (4, 2)) if curve.dashed else "-"
    marker = "o" if curve.marked or len(steps) == 1 else ""
    if curve.exact or len(steps) < _SMOOTH_FROM:
        drawing.axes.plot(
            steps, values, color=color, linestyle=style, marker=marker, markersize=3.2
        )
        return
    drawing.axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
    drawing.axes.plot(
        steps, running_mean(values, max(3, len(values) // 30)), color=color, linestyle=style
    )


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean of each value [N] with up to `reach` neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def histogram(
    name: str,
    title: str,
    edges: Sequence[float],
    counts: Mapping[str, Sequence[int]],
    note: str = "",
    xlabel: str = "",
    zero: bool = True,
) -> Panel:
    """Stacked bars of counts per group over common edges; `zero` marks 0."""
    groups = {group: values for group, values in counts.items() if sum(values)}
    if len(edges) < 2 or not groups:
        return Panel(title, None, note)
    low, high = np.asarray(edges[:-1]), np.asarray(edges[1:])
    bottom = np.zeros(len(low))
    with canvas(name, title) as drawing:
        for group, values in groups.items():
            color = COLORS.get(group, COLORS["other"])
            drawing.axes.bar(
                low, values, high - low, bottom, align="edge", color=color, linewidth=0, alpha=0.85
            )
            bottom = bottom + np.asarray(values)
        if zero:
            drawing.axes.axvline(0, color=COLORS["ink"], linewidth=0.9)
        drawing.axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        drawing.axes.set_xlabel(xlabel)
    legend = tuple((group, group if group in COLORS else "other") for group in groups)
    return Panel(title, drawing.markup, note, legend)


def outlines(name: str, title: str, table: Row, note: str = "", xlabel: str = "") -> Panel:
    """Histograms of several models over common edges ({"edges", "counts": {model: [...]}}) as outlines."""
    edges, counts = table.get("edges", []), table.get("counts", {})
    if len(edges) < 2 or not counts:
        return Panel(title, None, note)
    with canvas(name, title) as drawing:
        for group, values in counts.items():
            color = COLORS.get(group, COLORS["other"])
            drawing.axes.stairs(values, edges, color=color, linewidth=1.5)
            drawing.axes.stairs(values, edges, color=color, fill=True, alpha=0.10, linewidth=0)
        drawing.axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        drawing.axes.set_xlabel(xlabel)
    return Panel(
        title,
        drawing.markup,
        note,
        tuple((group, group if group in COLORS else "other") for group in counts),
    )


def bar_chart(
    name: str,
    title: str,
    bars: Sequence[tuple[str, float, float | None]],
    note: str = "",
    percent: bool = False,
) -> Panel:
    """One bar a model, (model, value, half width of its interval or None), from 0 up."""
    with canvas(name, title) as drawing:
        for place, (label, value, half) in enumerate(bars):
            drawing.axes.bar(
                place, value, 0.6, color=COLORS.get(label, COLORS["other"]), alpha=0.85, linewidth=0
            )
            if half is not None:
                drawing.axes.errorbar(
                    place, value, half, color=COLORS["ink"], capsize=3, linewidth=1
                )
            shown = f"{100 * value:.0f} %" if percent else f"{value:.2f}"
            drawing.axes.annotate(shown, (place, value / 2), ha="center", color=COLORS["surface"])
        drawing.axes.set_xticks(range(len(bars)), [label for label, _, _ in bars])
        if percent:
            drawing.axes.yaxis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{100 * value:g} %")
            )
        drawing.axes.set_ylim(bottom=0)
    return Panel(title, drawing.markup, note)


def calibration(name: str, title: str, bins: Sequence[Row], note: str = "") -> Panel:
    """Observed against predicted share of right pairs; the size of a dot is its number of pairs."""
    filled = [row for row in bins if row.get("count")]
    if not filled:
        return Panel(title, None, note)
    predicted, observed, count = (
        np.array([float(row[key]) for row in filled]) for key in ("predicted", "observed", "count")
    )
    with canvas(name, title) as drawing:
        low = min(0.5, float(predicted.min()), float(observed.min()))
        drawing.axes.plot(
            [low, 1], [low, 1], color=COLORS["muted"], linewidth=0.9, linestyle=(0, (2, 3))
        )
        drawing.axes.plot(predicted, observed, color=COLORS["policy"], linewidth=1.0, alpha=0.6)
        drawing.axes.scatter(
            predicted,
            observed,
            s=14 + 130 * count / count.max(),
            color=COLORS["policy"],
            linewidths=0,
        )
        for axis in (drawing.axes.xaxis, drawing.axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        drawing.axes.set_xlabel("predicted: sigmoid of the margin")
        drawing.axes.set_ylabel("observed")
    return Panel(title, drawing.markup, note)


def ridgelines(name: str, title: str, histograms: Sequence[Row], note: str = "") -> Panel:
    """Distributions over training, the first at the top; each row is scaled to its own highest bin."""
    chosen = evenly([row for row in histograms if sum(row.get("counts", []))], _RIDGES)
    if not chosen:
        return Panel(title, None, note)
    with canvas(name, title, height=0.9 + 0.38 * len(chosen)) as drawing:
        for level, row in enumerate(reversed(chosen)):
            edges, counts = (
                np.asarray(row["edges"], dtype=np.float64),
                np.asarray(row["counts"], dtype=np.float64),
            )
            centres = np.concatenate([[edges[0]], (edges[:-1] + edges[1:]) / 2, [edges[-1]]])
            heights = level + 1.35 * np.concatenate([[0.0], counts / counts.max(), [0.0]])
            order = 10 + 2 * (len(chosen) - level)
            drawing.axes.fill_between(
                centres, level, heights, color=COLORS["surface"], linewidth=0, zorder=order
            )
            drawing.axes.fill_between(
                centres,
                level,
                heights,
                color=COLORS["policy"],
                alpha=0.28,
                linewidth=0,
                zorder=order,
            )
            drawing.axes.plot(
                centres, heights, color=COLORS["policy"], linewidth=1.1, zorder=order + 1
            )
        drawing.axes.set_yticks(range(len(chosen)), [f"{row['step']}" for row in reversed(chosen)])
        drawing.axes.set_ylabel("iteration")
        drawing.axes.set_xlabel("score of the reward model")
        drawing.axes.grid(False)
    return Panel(title, drawing.markup, note)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items at even distances, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
