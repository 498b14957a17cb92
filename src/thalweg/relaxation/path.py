"""The path of a relaxation as a whole: T updates of G_θ, then a finish to the tolerance.

A basin is defined for (potential, update, α), so what is evaluated and what is differentiated go the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.relaxation.loop import Relaxation, relax
from thalweg.relaxation.relaxer import Relaxer
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Path:
    """T updates, then a finisher until every force is below fmax."""

    update: Descent
    steps: int = 75
    finish: Relaxer = field(default_factory=LBFGS)
    fmax: float = 0.005
    max_steps: int = 400
    coordinates: FreeCoordinates = field(default_factory=Positions)

    def run(
        self,
        potential: Potential,
        structures: Structures,
        *,
        skip: int = 0,
        keep_trace: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Relaxation:
        """Relax from the structures, which stand after `skip` updates."""
        if self.steps > skip:
            structures = relax(
                potential,
                structures,
                self.update,
                fmax=self.fmax,
                max_steps=self.steps - skip,
                coordinates=self.coordinates,
            ).structures
        return relax(
            potential,
            structures,
            self.finish,
            fmax=self.fmax,
            max_steps=self.max_steps,
            coordinates=self.coordinates,
            keep_trace=keep_trace,
            progress=progress,
        )
