"""matplotlib figures as inline SVG for the report's pages.

The same numbers give the same bytes, and the colours follow the page's theme.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour stands for a variable of style.css of the same name. What is drawn in it becomes a
# reference to that variable, so that it changes with the page's theme. No two may be equal.
COLORS = {
    "ink": "#1c2126",
    "muted": "#66707a",
    "grid": "#e4e7eb",
    "surface": "#fefefe",
    "policy": "#0c7c76",
    "sft": "#3a6db5",
    "base": "#8b929b",
    "helpful": "#3071b8",
    "harmless": "#c0621c",
    "other": "#7b5ea7",
    "win": "#16857a",
    "tie": "#b9bfc6",
    "lose": "#c9505a",
    # where a figure has more lines than roles
    "extra-1": "#a8871b",
    "extra-2": "#b2478f",
    "extra-3": "#2b3a67",
    "extra-4": "#6b7d1f",
    "extra-5": "#2f9fc4",
    "extra-6": "#7a4a2b",
}
# Inches of a panel, small enough that its text stays legible at the width of a phone.
WIDTH, HEIGHT = 4.6, 2.55

_STYLE: dict[Any, Any] = {
    # text stays text: the page's own font, and it can be searched
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": False,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.major.size": 3.0,
    "xtick.major.width": 0.6,
    "ytick.major.size": 0.0,
    "text.color": COLORS["ink"],
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


class Canvas:
    """One figure being drawn: draw on `axes`; `markup` is its SVG once the block has ended."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure = figure
        self.axes = axes
        self.markup = Markup()


@contextmanager
def svg_canvas(name: str, label: str, height: float = HEIGHT) -> Iterator[Canvas]:
    """A figure to draw on, `height` in inches.

    name: letters, digits and dashes; unique on the page, because ids in the SVG begin with it
    label: what a screen reader reads out
    """
    # without the salt, matplotlib draws the ids of clip paths at random
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        drawing = Canvas(figure, figure.add_subplot())
        drawing.axes.margins(x=0.02)
        yield drawing

        # no date and no version of matplotlib: the same numbers must give the same bytes
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)

    drawing.markup = _inline(stream.getvalue(), name, label)


def _inline(text: str, name: str, label: str) -> Markup:
    """Turn a whole SVG document into an element of an HTML page."""
    # 1. the <svg> element alone: no XML prologue, no metadata
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)

    # 2. as wide as its place on the page, with a label
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)

    # 3. ids that no other figure on the page has, and the references to them
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)

    # 4. colours by role
    for role, color in COLORS.items():
        text = text.replace(color, f"var(--{role})")

    # Markup is not escaped again. This is safe: matplotlib made it from numbers and escaped labels.
    return Markup(text)
