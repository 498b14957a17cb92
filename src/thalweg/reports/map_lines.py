"""The regime map in words: the table of the terminal and the sentences of the verdict, which the page repeats."""

from __future__ import annotations

import math

from thalweg.evaluation.regime import UPDATES, Answer, Coordinate, Figure, RegimeMap
from thalweg.reports import formats

HEADINGS = ("coordinate", "answer", "measured", "95 % interval", "headroom asks for")
"""Columns of the table."""


def map_lines(found: RegimeMap) -> list[str]:
    """Return the table, how each number was measured, and the verdict."""
    rows = [HEADINGS, *(coordinate_cells(c) for c in found.coordinates)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    measured = [f"{coordinate.name}: {told(coordinate)}" for coordinate in found.coordinates]
    return [*lines, *measured, *verdict_sentences(found)]


def coordinate_cells(coordinate: Coordinate) -> tuple[str, ...]:
    """Return a coordinate as a row of the table."""
    figure = coordinate.measurement.figure
    unit = "" if coordinate.at_least else UPDATES
    asked = f"{'at least' if coordinate.at_least else 'at most'} {_number(coordinate.limit, unit)}"
    if figure is None:
        return coordinate.name, coordinate.answer.value, formats.MISSING, formats.MISSING, asked
    return coordinate.name, coordinate.answer.value, _value(figure), interval(figure), asked


def told(coordinate: Coordinate) -> str:
    """Return how a coordinate was measured with the numbers beside it, or why it was not."""
    found = coordinate.measurement
    if found.why_not is not None:
        return f"not measured: {found.why_not}"
    beside = "; ".join(f"{figure.name} {_value(figure)} ({interval(figure)})" for figure in found.beside)
    name = "" if found.figure is None else f"{found.figure.name}, "
    return f"{name}{found.how}{f'. Beside it: {beside}' if beside else ''}"


def verdict_sentences(found: RegimeMap) -> list[str]:
    """Return the verdict, what it hangs on, and the suggested horizon with its price."""
    lines = [f"headroom {found.headroom.value}{_because(found)}"]
    figure = found.coordinates[-1].measurement.figure
    suggestion = found.suggestion
    if found.headroom is Answer.NO:
        lines.append("no horizon is suggested: by this map the split has no job here")
    elif suggestion is not None and figure is not None:
        lines.append(
            f"suggested K = {suggestion.horizon}: the {figure.name}; "
            f"for {found.reach.batch} structures it keeps {formats.megabytes(suggestion.stored_bytes)} MB for backward "
            f"with every graph stored ({formats.seconds(suggestion.stored_seconds)} s a gradient), "
            f"{formats.megabytes(suggestion.recomputed_bytes)} MB recomputed "
            f"({formats.seconds(suggestion.recomputed_seconds)} s)"
        )
        if suggestion.plan is not None:
            lines.append(f"planned: {suggestion.plan}")
    else:
        lines.append(f"no horizon is suggested: {_why_none(found, figure)}")
    return [*lines, _reach(found)]


def _because(found: RegimeMap) -> str:
    if found.headroom is Answer.YES:
        return ": all four coordinates hold"
    parts = [_off(c) for c in found.coordinates if c.answer is Answer.NO]
    parts = parts or [_unsettled(c) for c in found.coordinates if c.answer is not Answer.YES]
    return ": " + "; ".join(parts)


def _off(coordinate: Coordinate) -> str:
    name, _, measured, between, asked = coordinate_cells(coordinate)
    return f"{name!r} is off, {measured} ({between}) where headroom asks for {asked}"


def _unsettled(coordinate: Coordinate) -> str:
    if coordinate.answer is Answer.UNMEASURED:
        return f"{coordinate.name!r} cannot be measured, {coordinate.measurement.why_not}"
    name, _, measured, between, asked = coordinate_cells(coordinate)
    return f"{name!r} is open, {measured} ({between}) against {asked}: give more pairs"


def _why_none(found: RegimeMap, figure: Figure | None) -> str:
    if figure is None:
        return found.coordinates[-1].measurement.why_not or "there is no path to take it from"
    if figure.value < 1:
        return f"the {figure.name} is the start itself"
    return f"the {figure.name} is later than the {found.reach.longest} that could be differentiated"


def _reach(found: RegimeMap) -> str:
    reach = found.reach
    if reach.budget is None:
        return f"no budget was given, so it is held against all {found.steps} updates of the path"
    stored = f"K = {reach.longest_stored} stored whole" if reach.longest_stored else "none stored whole"
    longest = f"K = {reach.longest} recomputed" if reach.longest else "none at all"
    return f"within {reach.budget:,.0f} MB the longest horizons for {reach.batch} structures are {longest}, {stored}"


def interval(figure: Figure) -> str:
    """Return the interval of a figure in its unit; a dash where there is none."""
    if figure.interval is None:
        return formats.MISSING
    return " to ".join(_number(end, figure.unit) for end in figure.interval)


def _value(figure: Figure) -> str:
    unit = f" {figure.unit}" if figure.unit and math.isfinite(figure.value) else ""
    return f"{_number(figure.value, figure.unit)}{unit}"


def _number(value: float, unit: str = "") -> str:
    if math.isinf(value):
        return "later"
    return f"{value:.0f}" if unit == UPDATES else f"{value:.2f}"
