"""One look for all figures: the colour of each arm, axes, type and size.

Colours are those of Okabe and Ito (2008, "Color universal design"), which stay apart for every common kind
of colour blindness; the base is grey. An arm has the same colour in every figure and table of a report.
Surfaces are transparent and text is recoloured by the page, so one figure serves light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import cycle
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

_GREY, _BLUE, _RED, _GREEN, _PINK = "#7a7a7a", "#0072b2", "#d55e00", "#009e73", "#cc79a7"
_KNOWN = {"base": _GREY, "implicit": _BLUE, "bptt": _RED, "split-20": _GREEN}
_FURTHER = (_PINK, "#56b4e9", "#e69f00", "#8c6d1f", "#5b4ea3", "#1b1b1b")
ROUTE_COLOURS = {
    "implicit": "#0072b2",
    "unrolled": "#d55e00",
    "bptt": "#d55e00",
    "split": "#009e73",
    "phantom": "#cc79a7",
}
"""Colour of each kind of route, the same as that of the arm which stands for it."""

ROUTE_MARKERS = {
    "implicit": "diamond",
    "unrolled": "square",
    "bptt": "square",
    "split": "triangle-up",
    "phantom": "star",
}
"""Marker of each kind of route, as in the demo's arms."""

MARKERS = ("circle", "diamond", "square", "triangle-up", "pentagon", "star", "hexagon")
"""Marker of the first, second, … arm: colour alone never carries the difference."""

INK = "#22282b"
"""Colour of text on a light page; the page changes it in the dark."""
GRID = "rgba(128,140,145,0.22)"
"""Colour of grid lines, faint on light and dark pages alike."""


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each arm: fixed for the arms of the demo, in order of appearance for others."""
    further = cycle(_FURTHER)
    return {name: _KNOWN.get(name) or next(further) for name in names}


def arm_markers(names: Sequence[str]) -> dict[str, str]:
    """Return a marker for each arm, in order of appearance."""
    return {name: MARKERS[k % len(MARKERS)] for k, name in enumerate(names)}


def label(text: str) -> str:
    """Return text that a figure shows as it stands; plotly would read tags in it."""
    return escape(text, quote=False)


def translucent(colour: str, opacity: float) -> str:
    """Return a #rrggbb colour as rgba(…) with an opacity between 0 and 1."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def log_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis around positive values, with every label written out in full."""
    low, high = log10(min(values)), log10(max(values))
    margin = max(0.1 * (high - low), 0.2)  # at least 0.4 decades in all, so that one of 1, 2, 5 lies inside
    low, high = low - margin, high + margin
    steps = (1, 2, 5) if high - low < 3 else (1,)
    ticks = [m * 10.0**e for e in range(floor(low), ceil(high) + 1) for m in steps if low <= log10(m) + e <= high]
    return axis(title) | {
        "type": "log",
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [f"{tick:,.12g}" for tick in ticks],
    }


def axis(title: str | None) -> dict[str, Any]:
    """Return an axis with its title (quantity and unit) and the report's grid, as plotly settings."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13}},
        "gridcolor": GRID,
        "zeroline": False,
        "showline": True,
        "linecolor": "rgba(128,140,145,0.6)",
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "rgba(128,140,145,0.6)",
        "automargin": True,
    }


def finish(figure: go.Figure, *, height: int = 330, legend: bool = True) -> go.Figure:
    """Give a figure the report's type, margins and legend above the axes; returns the same figure.

    The figure grows with its legend: two short names stand side by side, and what goes beyond two lines is added to
    `height`.
    """
    names = [t.name for t in figure.data if legend and t.name is not None and t.showlegend is not False]
    beside = 1 if any(len(name) > 20 for name in names) else 2
    above = 22 * max(0, -(-len(names) // beside) - 2)
    figure.update_layout(
        template="none",
        height=height + above,
        margin={"l": 56, "r": 18, "t": (34 if legend else 12) + above, "b": 48},
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hoverlabel={"font": {"size": 12}},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,140,145,0.8)", "activecolor": "rgba(128,140,145,1)"},
    )
    return figure
