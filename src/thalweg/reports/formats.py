"""How numbers are written in reports: one way each, and a dash for what was not measured.

Called by the table, the figures and the sentences, so that a figure reads the same wherever it stands.
"""

from __future__ import annotations

MISSING = "–"
"""What stands where nothing was measured."""


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with `digits` decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


def small(value: float | None) -> str:
    """Return a number that may be tiny, with two significant digits: `0.012`, `3.4e-07`."""
    return MISSING if value is None else f"{value:.2g}"


def figure(value: float | None) -> str:
    """Return a number of any size with four significant digits: `5.431`, `151.4`."""
    return MISSING if value is None else f"{value:.4g}"


def megabytes(value: float | None) -> str:
    """Return bytes as MB (10⁶ bytes), with a decimal below ten: `8.4`, `1,204`."""
    if value is None:
        return MISSING
    size = value / 1e6
    return f"{size:.1f}" if size < 9.95 else f"{size:,.0f}"


def seconds(value: float | None) -> str:
    """Return a time in seconds, with a decimal below ten."""
    if value is None:
        return MISSING
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def duration(value: float | None) -> str:
    """Return a time in words of the fitting size: `48 s`, `12 min`, `3.1 h`."""
    if value is None:
        return MISSING
    if value < 120:
        return f"{seconds(value)} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def percent(share: float) -> str:
    """Return a share as whole percent without the sign: `62`."""
    return f"{100 * share:.0f}"


def fraction(part: int | None, whole: int | None) -> str:
    """Return a count of a count, `31 / 40`; without the whole the count alone."""
    if part is None:
        return MISSING
    return f"{part:,}" if whole is None else f"{part:,} / {whole:,}"


def right_basins(right: int | None, total: int | None, interval: tuple[float, float] | None) -> str:
    """Return right basins with their interval: `31 / 40 (62–88 %)`."""
    text = fraction(right, total)
    if text == MISSING or interval is None:
        return text
    return f"{text} ({percent(interval[0])}–{percent(interval[1])} %)"


def probability(value: float | None) -> str:
    """Return a p-value: `0.03`, `0.004`, `< 0.001`."""
    if value is None:
        return MISSING
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.01 else f"{value:.2f}"
