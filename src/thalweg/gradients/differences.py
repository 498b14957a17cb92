"""Central differences with a plateau: the judge of every gradient.

    D(h) = (f(θ + h d) − f(θ − h d)) / 2h     for h over several decades

Neighbouring steps are extrapolated (Richardson 1911), which removes the error of order h². Large h is spoilt by the
next order, small h by rounding; in between lies a plateau on which neighbouring values agree. The plateau is found
without looking at the gradient under test, and only then compared with it. Without a plateau there is no verdict
but failure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_STEPS: tuple[float, ...] = tuple(10.0 ** (-k / 2) for k in range(4, 13))
"""h from 1e-2 to 1e-6 in half decades, in units of the direction; networks with large output weights need the
smallest."""


@dataclass(frozen=True)
class Comparison:
    """A directional derivative against central differences."""

    analytic: float
    """The derivative under test, g · d."""
    numeric: float
    """The value on the plateau; NaN if there is none."""
    relative_error: float
    """|analytic − numeric| / |numeric|; NaN if there is no plateau."""
    plateau: tuple[float, ...]
    """Step sizes that agree with each other."""
    passed: bool
    """Whether the relative or the absolute bound is met on a plateau."""
    still: bool = False
    """Whether f does not move with the parameters at all: there was nothing to compare, and nothing passed."""


def compare(
    value: Callable[[], float],
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor],
    analytic: float,
    *,
    relative: float = 1e-6,
    absolute: float = 1e-12,
    floor: float = 0.0,
    steps: Sequence[float] = DEFAULT_STEPS,
) -> Comparison:
    """Compare a directional derivative with central differences of `value`.

    Args:
        value: evaluates f at the present parameters.
        parameters: changed in place during the call and restored afterwards.
        direction: d, one tensor per parameter.
        analytic: the derivative under test.
        relative: bound on the relative error at the plateau.
        absolute: a difference below this passes whatever the relative error.
        floor: f is still where the derivative under test and the differences at the two largest steps all lie
            below this; 0 looks no closer.
        steps: values of h.
    """
    saved = [p.detach().clone() for p in parameters]
    try:
        raw = [_difference(value, parameters, saved, direction, h) for h in steps]
    finally:
        _set(parameters, saved)
    if max(abs(analytic), abs(raw[0]), abs(raw[1])) < floor:  # False where one of them is not a number
        return Comparison(analytic, raw[0], math.nan, (), passed=False, still=True)
    numeric = [
        fine + (fine - coarse) / ((h / finer) ** 2 - 1)
        for coarse, fine, h, finer in zip(raw[:-1], raw[1:], steps[:-1], steps[1:], strict=True)
    ]
    best = _plateau(numeric, 0.5 * relative, 0.5 * absolute)
    if best is None:
        return Comparison(analytic, math.nan, math.nan, (), passed=False)
    level = 0.5 * (numeric[best] + numeric[best + 1])
    gap = abs(analytic - level)
    error = gap / abs(level) if level != 0 else (0.0 if gap == 0 else math.inf)
    passed = math.isfinite(analytic) and (error <= relative or gap <= absolute)
    return Comparison(analytic, level, error, (steps[best], steps[best + 1]), passed)


def _difference(
    value: Callable[[], float],
    parameters: Sequence[Tensor],
    saved: Sequence[Tensor],
    direction: Sequence[Tensor],
    h: float,
) -> float:
    _set(parameters, [p + h * d for p, d in zip(saved, direction, strict=True)])
    above = value()
    _set(parameters, [p - h * d for p, d in zip(saved, direction, strict=True)])
    below = value()
    return (above - below) / (2 * h)


def _set(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, v in zip(parameters, values, strict=True):
            p.copy_(v)


def _plateau(numeric: Sequence[float], relative: float, absolute: float) -> int | None:
    """Return the index of the two neighbouring differences that agree best, if they agree well enough."""
    best, smallest = None, math.inf
    for k, (a, b) in enumerate(itertools.pairwise(numeric)):
        size = max(abs(a), abs(b))
        gap = abs(a - b)
        if math.isfinite(gap) and (gap <= relative * size or gap <= absolute) and gap < smallest:
            best, smallest = k, gap
    return best
