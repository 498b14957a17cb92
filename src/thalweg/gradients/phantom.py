"""The phantom route: relax without a graph, then differentiate a few updates made at the fixed point.

The truncated Neumann series of the implicit gradient (Geng et al. 2021, "On training implicit models",
equation 9): cheaper than the exact adjoint, biased towards stiff modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from thalweg.errors import SettingsError
from thalweg.gradients.certificate import begin
from thalweg.gradients.guidance import guide
from thalweg.gradients.route import Differentiated, Route
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path, placed_into
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Phantom(Route):
    """Approximate the gradient of X* by `updates` differentiated updates started at X*."""

    updates: int = 5
    """Differentiated updates at the fixed point."""
    recompute: bool = True
    """Keep only the states and rebuild each step's graph in backward."""
    kind: ClassVar[str] = "phantom"

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise SettingsError(f"route.updates is {self.updates}: allowed is 1 or more, e.g. 5")

    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        """Return X* moved by the differentiated updates; see `Route.differentiate`."""
        relaxation = path.run(potential, starts.detach())
        certificates = begin(relaxation)
        relaxed = relaxation.structures.detach()
        inside = [k for k, c in enumerate(certificates) if c.took_part]
        if not inside:
            return Differentiated(guided=None, equilibrium=relaxed, certificates=certificates)
        polished, healthy = guide(
            potential,
            relaxed.select(inside),
            path,
            self.updates,
            recompute=self.recompute,
            reference=starts.select(inside),
        )
        for k, sound in zip(inside, healthy.tolist(), strict=True):
            if not sound:
                certificates[k].refuse("exploded")
        equilibrium = placed_into(relaxed, polished, torch.tensor(inside, device=relaxed.device))
        return Differentiated(guided=None, equilibrium=equilibrium, certificates=certificates)

    def claims(self, potential: Potential, starts: Structures, path: Path) -> dict[str, Callable[[], Structures]]:
        """The updates made at a fixed X*; see `Route.claims`."""
        fixed = path.run(potential, starts.detach()).structures.detach()

        def updated() -> Structures:
            return guide(potential, fixed, path, self.updates, recompute=True, reference=starts)[0].detach()

        return {"equilibrium": updated}
