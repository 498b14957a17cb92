"""The memory dial: bytes saved for backward and seconds of one gradient, by route and horizon, as measured.

Bytes are counted exactly (saved-tensor hooks), seconds are those of a second gradient without the hooks. The
objective is the sum of the squared displacements: what it is makes no difference to either figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from thalweg.gradients import Implicit, Route, Split, Unrolled
from thalweg.gradients.planning import gradient, saved_bytes
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures
from thalweg.training.settings import RelaxationSettings

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
    starts = starts.to(dtype=next(potential.parameters()).dtype)
    return [_point(potential, starts, path, *way) for way in _ways(path, horizons) if allowed(way[0])]


def _ways(path: Path, horizons: tuple[int, ...]) -> list[tuple[Route, int | None, bool]]:
    ways: list[tuple[Route, int | None, bool]] = [(Implicit(), None, True)]
    for recompute in (True, False):
        ways += [(Split(k, recompute), k, recompute) for k in horizons if k <= path.steps]
        ways.append((Unrolled(None, recompute), path.steps, recompute))
    return ways


def _point(
    potential: Potential, starts: Structures, path: Path, route: Route, horizon: int | None, recompute: bool
) -> DialPoint:
    saved = saved_bytes(potential, starts, path, route)
    began = time.perf_counter()
    gradient(potential, starts, path, route)
    seconds = time.perf_counter() - began
    potential.zero_grad(set_to_none=True)
    return DialPoint(route.kind, horizon, recompute, saved, seconds)
