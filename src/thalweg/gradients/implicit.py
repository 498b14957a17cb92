"""The implicit route: relax without a graph, differentiate the fixed point; blind to the choice of basin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from thalweg.gradients.adjoint import AdjointSettings
from thalweg.gradients.equilibrium import equilibrium_claim, relax_implicitly
from thalweg.gradients.route import Differentiated, Route
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Implicit(Route):
    """Differentiate X* by the implicit function theorem; saved bytes do not depend on the number of steps."""

    adjoint: AdjointSettings = field(default_factory=AdjointSettings)
    """How the adjoint system is solved."""
    kind: ClassVar[str] = "implicit"

    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        """Return X*; see `Route.differentiate`."""
        equilibrium, certificates = relax_implicitly(potential, starts, path, self.adjoint, reference=starts)
        return Differentiated(guided=None, equilibrium=equilibrium, certificates=certificates)

    def tightened(self, tolerance: float) -> Implicit:
        """Return the route with a tighter adjoint; see `Route.tightened`."""
        return replace(self, adjoint=self.adjoint.tightened(tolerance))

    def claims(self, potential: Potential, starts: Structures, path: Path) -> dict[str, Callable[[], Structures]]:
        """X*, found again from X* of the unchanged parameters; see `Route.claims`."""
        return {"equilibrium": equilibrium_claim(potential, starts, path)}
