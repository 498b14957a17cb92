"""Intervals of the regime map: of a mean over structures, of a share, of a quantile of censored whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binom

from thalweg.errors import SettingsError
from thalweg.evaluation.regime.coordinate import Figure
from thalweg.evaluation.statistics import bootstrap_difference, wilson_interval


def mean_figure(name: str, values: Sequence[float], unit: str, *, seed: int) -> Figure | None:
    """Return the mean over structures with its bootstrap interval; None where there is no value.

    Args:
        name: what it is.
        values: one finite number a structure.
        unit: of the values.
        seed: root of the stream of the bootstrap.
    """
    if not values:
        return None
    mean, interval = float(values[0]), None
    if len(values) > 1:
        found = bootstrap_difference(values, [0.0] * len(values), seed=seed)
        mean, interval = found.mean, found.interval
    return Figure(name, mean, interval, unit, len(values))


def share_figure(name: str, count: int, total: int) -> Figure:
    """Return a share with its Wilson interval."""
    return Figure(name, count / total, wilson_interval(count, total), "", total)


def quantile_figure(
    name: str, values: Sequence[float], share: float, unit: str, *, confidence: float = 0.95
) -> Figure | None:
    """Return the least value that `share` of all do not exceed, with an interval free of any distribution.

        P(x_(l) ≤ q ≤ x_(u)) ≥ confidence,   l and u from Binomial(n, share)

    Both ends are values that were seen, so it holds for infinite ones (seen to be above all numbers, not how far),
    and a quantile so high that n values do not bound it has an upper end of infinity. The bootstrap cannot say that: it
    never leaves the largest value seen, and for few values its interval of a high quantile is too narrow.

    Args:
        name: what it is.
        values: numbers of at least 0, or infinity.
        share: which quantile, in (0, 1).
        unit: of the values.
        confidence: level of the interval, in (0, 1).

    Returns:
        The quantile, or None where there are no values.

    Raises:
        SettingsError: a share or a level outside its range.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed. (1999), section 3.2.
    """
    for word, value in (("share", share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise SettingsError(f"{word} is {value}: allowed is a number between 0 and 1, e.g. 0.8")
    if not values:
        return None
    ordered, n = sorted(values), len(values)
    tail = 0.5 - 0.5 * confidence
    lower = int(binom.ppf(tail, n, share))  # P(fewer than this many below q) is at most the tail
    upper = int(binom.ppf(1 - tail, n, share)) + 1
    low = ordered[lower - 1] if lower >= 1 else 0.0
    high = ordered[upper - 1] if upper <= n else math.inf
    value = ordered[max(math.ceil(share * n - 1e-9), 1) - 1]
    return Figure(name, value, (low, high), unit, n)
