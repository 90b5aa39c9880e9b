"""matplotlib figures as inline SVG: the same bytes for the same numbers, colours that follow the page's theme."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour stands for a variable of style.css: what is drawn in it changes with the page's theme.
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
}
WIDTH, HEIGHT = 4.6, 2.55  # inches of a panel: its text stays legible at the width of a phone
_STYLE: dict[Any, Any] = {
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
    """One panel being drawn: draw on `axes`; `markup` is the SVG after the block."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure, self.axes = figure, axes
        self.markup = Markup()


@contextmanager
def canvas(name: str, label: str, height: float = HEIGHT) -> Iterator[Canvas]:
    """A panel to draw on. `name` (letters, digits, dashes) must be its own on the page, `label` is read to the blind."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panel = Canvas(figure, figure.add_subplot())
        panel.axes.margins(x=0.02)
        yield panel
        stream = io.StringIO()
        no_trace = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_trace)
    panel.markup = _inline(stream.getvalue(), name, label)


def _inline(text: str, name: str, label: str) -> Markup:
    """Cut out the <svg> element, give it fluid size and a label, ids of its own and the theme's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    for role, color in COLORS.items():
        text = text.replace(color, f"var(--{role})")
    return Markup(text)  # made by matplotlib from numbers and our own labels
