"""The two pictures of the regime map: four gauges with their limits, and when the valleys are decided."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from thalweg.evaluation.regime import Answer, Coordinate, RegimeMap
from thalweg.reports import style
from thalweg.reports.map_lines import coordinate_cells

if TYPE_CHECKING:
    import plotly.graph_objects as go

ANSWER_LOOK = {
    Answer.YES: ("#009e73", "circle"),
    Answer.NO: ("#d55e00", "x"),
    Answer.OPEN: ("#e69f00", "diamond"),
    Answer.UNMEASURED: ("#7a7a7a", "circle-open"),
}
"""Colour and marker of each answer: colour alone never carries the difference."""

_VERDICT_COLOURS = {"right": "#0072b2", "wrong": "#d55e00"}
_BIN = 5  # updates in a bar


def gauges(found: RegimeMap) -> go.Figure:
    """Draw the four coordinates: value, interval, and shaded the side of the limit that leaves headroom."""
    from plotly.subplots import make_subplots

    names = [f"<b>{c.name}</b>: {c.answer.value}{_quantity(c)}" for c in found.coordinates]
    rows = len(found.coordinates)
    figure = make_subplots(rows=rows, cols=1, subplot_titles=names, vertical_spacing=0.14)
    for row, coordinate in enumerate(found.coordinates, start=1):
        low, high = _scale(coordinate, found.steps)
        _add_gauge(figure, row, coordinate, low, high)
        axis = style.axis(None) | {"range": [low, high], "showgrid": False}
        if not coordinate.at_least:
            axis |= _with_later(found.steps)
        figure.update_xaxes(axis, row=row, col=1)
        figure.update_yaxes(visible=False, range=[-1, 1], row=row, col=1)
    figure = style.finish(figure, legend=False, height=110 * rows + 60)
    figure.update_layout(margin={"l": 24, "r": 24, "t": 40, "b": 30})
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    return figure


def _quantity(coordinate: Coordinate) -> str:
    """Return what a gauge shows, for its title."""
    figure = coordinate.measurement.figure
    return "" if figure is None else f" · {style.label(figure.name)}"


def _scale(coordinate: Coordinate, steps: int) -> tuple[float, float]:
    """Return the ends of a gauge: around all that it shows."""
    if not coordinate.at_least:
        return -0.02 * steps, 1.1 * steps
    figure = coordinate.measurement.figure
    shown = [coordinate.limit]
    if figure is not None:
        shown += [figure.value, *(figure.interval or ())]
    if coordinate.limit < 1:  # a cosine or a share
        return min(0.0, *shown), 1.02
    return 0.9, max(2 * coordinate.limit, 1.1 * max(shown))


def _with_later(steps: int) -> dict[str, Any]:
    """Return ticks of an axis of updates with a place for what is later than the last one."""
    every = max(1, round(steps / 5 / 5)) * 5
    ticks = [t for t in range(0, steps, every) if t < 0.95 * steps] + [steps]
    return {"tickvals": [*ticks, 1.07 * steps], "ticktext": [*map(str, ticks), "later"]}


def _add_gauge(figure: go.Figure, row: int, coordinate: Coordinate, low: float, high: float) -> None:
    colour, symbol = ANSWER_LOOK[coordinate.answer]
    x0, x1 = (coordinate.limit, high) if coordinate.at_least else (low, coordinate.limit)
    figure.add_shape(
        type="rect",
        x0=x0,
        x1=x1,
        y0=-0.55,
        y1=0.55,
        fillcolor=style.translucent("#009e73", 0.13),
        line={"width": 0},
        layer="below",
        row=row,
        col=1,
    )
    measured = coordinate.measurement.figure
    if measured is None:
        middle = (low + high) / 2
        figure.add_scatter(x=[middle], y=[0], mode="text", text=["not measured"], hoverinfo="skip", row=row, col=1)
        return
    cap = 0.97 * high  # where 'later' stands
    if measured.interval is not None:
        ends = [min(end, cap) for end in measured.interval]
        figure.add_scatter(
            x=ends,
            y=[0, 0],
            mode="lines",
            line={"color": colour, "width": 7},
            opacity=0.45,
            hoverinfo="skip",
            row=row,
            col=1,
        )
    _, _, value, between, asked = coordinate_cells(coordinate)
    figure.add_scatter(
        x=[min(measured.value, cap)],
        y=[0],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 15},
        hovertemplate=f"{value} ({between}), headroom asks for {asked}<extra></extra>",
        cliponaxis=False,
        row=row,
        col=1,
    )


def decisions(found: RegimeMap) -> go.Figure | None:
    """Draw when paths leave the right basin or, without a reference, are decided, five updates a bar; K is marked."""
    import plotly.graph_objects as go

    figure = go.Figure()
    place = 1.07 * found.steps
    drawn = False
    for name, colour, steps in _courses(found):
        bars = Counter(place if math.isinf(s) else _BIN * (s // _BIN) + _BIN / 2 for s in steps)
        if bars:
            drawn = True
            figure.add_bar(
                x=list(bars),
                y=list(bars.values()),
                width=_BIN * 0.9,
                name=name,
                marker={"color": colour, "opacity": 0.75},
                hovertemplate="%{y} paths",
            )
    if not drawn:
        return None
    if found.suggestion is not None and found.headroom is not Answer.NO:
        figure.add_vline(
            x=found.suggestion.horizon,
            line={"color": "#009e73", "width": 2, "dash": "dash"},
            annotation_text=f"K = {found.suggestion.horizon}",
            annotation_position="top right",
        )
    edge = 1.07 * found.steps + _BIN
    label = "update that leaves the right basin" if _departs(found) else "update that decides the valley"
    figure.update_xaxes(style.axis(label) | _with_later(found.steps) | {"range": [-1, edge]})
    figure.update_yaxes(style.axis("paths") | {"rangemode": "tozero"})
    figure.update_layout(barmode="stack")
    return style.finish(figure, height=360)


def _departs(found: RegimeMap) -> bool:
    return any(d.departure is not None for d in found.decisions)


def _courses(found: RegimeMap) -> list[tuple[str, str, list[float]]]:
    """Return name, colour and updates of each group of paths."""
    if _departs(found):
        left = [d.departure for d in found.decisions if d.departure is not None]
        return [("lands wrong", _VERDICT_COLOURS["wrong"], left)]
    return [
        (f"lands {verdict}", colour, [d.step for d in found.decisions if d.verdict == verdict and d.step is not None])
        for verdict, colour in _VERDICT_COLOURS.items()
    ]
