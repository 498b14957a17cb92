"""Relaxation: the update G_θ, relaxers, the one loop over them, and the path a study fixes.

`RELAXERS` names every relaxer; a new one is a new file and a line here.
"""

from __future__ import annotations

from thalweg.relaxation.cell import PositionsAndCell
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.fire import FIRE
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.relaxation.loop import Relaxation, relax
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.relaxation.relaxer import Relaxer, State
from thalweg.relaxation.stability import Curvature, Stability, check_alpha, largest_curvature, safe_alpha
from thalweg.relaxation.update import Descent

RELAXERS: dict[str, type[Relaxer]] = {kind.kind: kind for kind in (Descent, FIRE, LBFGS)}
"""Every relaxer by its name in settings files."""

__all__ = [
    "FIRE",
    "LBFGS",
    "RELAXERS",
    "Curvature",
    "Descent",
    "FreeCoordinates",
    "Outcome",
    "Path",
    "Positions",
    "PositionsAndCell",
    "Relaxation",
    "Relaxer",
    "Stability",
    "State",
    "check_alpha",
    "largest_curvature",
    "relax",
    "safe_alpha",
]
