"""The unrolled route: backpropagation through the first K updates, or through all of them (BPTT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from thalweg.gradients.certificate import Certificate
from thalweg.gradients.guidance import check_horizon, check_states, guide
from thalweg.gradients.route import Differentiated, Route
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Unrolled(Route):
    """Differentiate the first `horizon` updates; the objective sees X_K.

    With `horizon=None` all T updates are differentiated: full backpropagation through time. A short horizon is
    guidance without equilibrium.
    """

    horizon: int | None = None
    """K, number of differentiated updates; None for all of the path's."""
    recompute: bool = True
    """Keep only the states and rebuild each step's graph in backward: same bits, far less memory."""
    states: int | None = None
    """Most states kept by recomputation; the others are stepped to again (binomial schedule). None keeps all, and
    their neighbour lists."""
    kind: ClassVar[str] = "unrolled"

    def __post_init__(self) -> None:
        check_states(self.recompute, self.states)

    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        """Return X_K; see `Route.differentiate`."""
        count = check_horizon(self.horizon, path)
        guided, healthy = guide(potential, starts, path, count, recompute=self.recompute, states=self.states)
        certificates = [
            Certificate(id=name, took_part=sound, reason=None if sound else "exploded", steps=count)
            for name, sound in zip(starts.ids, healthy.tolist(), strict=True)
        ]
        return Differentiated(guided=guided, equilibrium=None, certificates=certificates)

    def claims(self, potential: Potential, starts: Structures, path: Path) -> dict[str, Callable[[], Structures]]:
        """X_K of the updates; see `Route.claims`."""
        count = check_horizon(self.horizon, path)
        return {"guided": lambda: guide(potential, starts, path, count, recompute=True)[0].detach()}
