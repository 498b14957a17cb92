"""The memory dial: bytes saved for backward and seconds of one gradient, by route and horizon, as measured.

Bytes are counted exactly (saved-tensor hooks), seconds are those of a second gradient without the hooks. The
objective is the sum of the squared displacements: what it is makes no difference to either figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import psutil

from thalweg.gradients import Implicit, Phantom, Route, Split, Unrolled
from thalweg.gradients.planning import gradient, measure_costs, saved_bytes
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures
from thalweg.training.settings import RelaxationSettings

_MEMORY_SHARE = 0.5  # of the memory that is free; a measurement that would keep more is left out

HORIZONS = (10, 15, 20, 30)
"""Horizons of the source's table."""


@dataclass(frozen=True)
class DialPoint:
    """One route at one horizon."""

    route: str
    """Kind of the route."""
    horizon: int | None
    """Differentiated updates; None where there are none."""
    recompute: bool
    """Whether each update is recomputed during backward."""
    saved_bytes: int
    """Largest number of bytes kept for backward at once."""
    seconds: float
    """Wall time of one gradient."""


def measure_dial(
    potential: Potential,
    starts: Structures,
    relaxation: RelaxationSettings,
    horizons: tuple[int, ...] = HORIZONS,
    *,
    allowed: Callable[[Route], bool] = lambda route: True,
) -> list[DialPoint]:
    """Measure the split at each horizon and full BPTT, plain and recomputed, and implicit only.

    Args:
        potential: what is differentiated; its gradients are cleared.
        starts: one batch, in any floating type.
        relaxation: the path; `alpha` must be set.
        horizons: horizons of the split; those beyond the path are left out.
        allowed: asked before each measurement, whose route may keep more than the machine has; False leaves it out.
    """
    path = relaxation.path()
    return measure_routes(potential, starts, path, [way for way in _ways(path, horizons) if allowed(way)])


def measure_routes(
    potential: Potential, starts: Structures, path: Path, routes: Sequence[Route], *, repetitions: int = 1
) -> list[DialPoint]:
    """Measure memory and time of one gradient by each route.

    Args:
        potential: what is differentiated; its gradients are cleared.
        starts: one batch, in any floating type.
        path: the relaxation.
        routes: what is measured.
        repetitions: timed gradients of each; they are interleaved, so that a slow spell meets all alike, and the
            median counts.
    """
    starts = starts.to(dtype=next(potential.parameters()).dtype)
    saved = [saved_bytes(potential, starts, path, route) for route in routes]
    seconds: list[list[float]] = [[] for _ in routes]
    for _ in range(repetitions):
        for route, found in zip(routes, seconds, strict=True):
            began = time.perf_counter()
            gradient(potential, starts, path, route)
            found.append(time.perf_counter() - began)
    potential.zero_grad(set_to_none=True)
    return [
        DialPoint(route.kind, _horizon(route, path), getattr(route, "recompute", True), kept, median(found))
        for route, kept, found in zip(routes, saved, seconds, strict=True)
    ]


def both_ways(route: Route) -> list[Route]:
    """Return a route with its updates recomputed and with every graph stored; alone where it has no such choice."""
    if isinstance(route, Split | Unrolled):
        return [replace(route, recompute=True), replace(route, recompute=False, states=None)]
    if isinstance(route, Phantom):
        return [replace(route, recompute=True), replace(route, recompute=False)]
    return [route]


def affordable(
    potential: Potential, starts: Structures, path: Path, *, say: Callable[[str], None]
) -> Callable[[Route], bool]:
    """Return what tells whether a route would keep no more than half of the memory that is free; says what would.

    Args:
        potential: what is differentiated.
        starts: one batch.
        path: the relaxation.
        say: told one line for each route that would keep more.
    """
    costs = measure_costs(potential, starts, path)

    def allowed(route: Route) -> bool:
        saved = costs.forecast(route, path).saved_bytes
        free = psutil.virtual_memory().available
        if saved <= _MEMORY_SHARE * free:
            return True
        say(f"left out: {route} would keep {saved / 1e6:,.0f} MB of {free / 1e6:,.0f} that are free")
        return False

    return allowed


def _ways(path: Path, horizons: tuple[int, ...]) -> list[Route]:
    ways: list[Route] = [Implicit()]
    for recompute in (True, False):
        ways += [Split(k, recompute) for k in horizons if k <= path.steps]
        ways.append(Unrolled(None, recompute))
    return ways


def _horizon(route: Route, path: Path) -> int | None:
    """Return the number of differentiated updates; None where there are none."""
    if isinstance(route, Unrolled) and route.horizon is None:
        return path.steps
    if isinstance(route, Phantom):
        return route.updates
    return getattr(route, "horizon", None)
