"""The split: guidance first (which valley), equilibrium last (how deep).

The first K updates are differentiated and give X_K. From X_K the same path goes on without a graph to X*, where
the implicit gradient is taken. Only the short window costs memory; the long tail costs none, and most of the time:
with `shortcut` the finisher takes over at X_K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from thalweg.gradients.adjoint import AdjointSettings
from thalweg.gradients.certificate import begin
from thalweg.gradients.equilibrium import attach_implicit, equilibrium_claim
from thalweg.gradients.guidance import check_horizon, check_states, guide
from thalweg.gradients.route import Differentiated, Route
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Split(Route):
    """Differentiate the first `horizon` updates and the fixed point; nothing in between."""

    horizon: int = 20
    """K, number of differentiated updates: the dial between memory and steering."""
    recompute: bool = True
    """Keep only the K states and rebuild each step's graph in backward: same bits, less memory."""
    states: int | None = None
    """Most states kept by recomputation; the others are stepped to again (binomial schedule). None keeps all, and
    their neighbour lists."""
    adjoint: AdjointSettings = field(default_factory=AdjointSettings)
    """How the adjoint system is solved."""
    shortcut: bool = False
    """Go from X_K to X* by the path's finisher at once, leaving out the updates between K and T. On silicon
    interstitials that halves the forward solve; of 24 starts one ended in another basin than along the whole path."""
    kind: ClassVar[str] = "split"

    def __post_init__(self) -> None:
        check_states(self.recompute, self.states)

    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        """Return X_K and X*; see `Route.differentiate`."""
        count = check_horizon(self.horizon, path)
        guided, _ = guide(potential, starts, path, count, recompute=self.recompute, states=self.states)
        made = path.steps if self.shortcut else count
        relaxation = path.run(potential, guided.detach(), skip=made, reference=starts.detach())
        certificates = begin(relaxation, already=count)
        equilibrium = attach_implicit(
            potential,
            relaxation.structures,
            certificates,
            coordinates=path.coordinates,
            settings=self.adjoint,
            reference=starts,
        )
        return Differentiated(guided=guided, equilibrium=equilibrium, certificates=certificates)

    def tightened(self, tolerance: float) -> Split:
        """Return the route with a tighter adjoint; see `Route.tightened`."""
        return replace(self, adjoint=replace(self.adjoint, tolerance=tolerance, max_iterations=2000))

    def claims(self, potential: Potential, starts: Structures, path: Path) -> dict[str, Callable[[], Structures]]:
        """X_K of the updates and X*; see `Route.claims`."""
        count = check_horizon(self.horizon, path)
        return {
            "guided": lambda: guide(potential, starts, path, count, recompute=True)[0].detach(),
            "equilibrium": equilibrium_claim(potential, starts, replace(path, steps=count) if self.shortcut else path),
        }
