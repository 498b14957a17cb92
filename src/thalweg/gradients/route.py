"""The contract of a route: a small frozen value that knows how to differentiate a relaxation.

A route takes a potential, starts and the path of the relaxation and returns differentiable structures: X_K after
the first K updates (guidance) and/or X* where every force is below fmax (equilibrium); the cell is differentiable
too where it moves. Any objective goes on
top, and `loss.backward()` fills the gradients of the potential's parameters. One certificate per structure says
what the gradient is worth; the adjoint's part of it is written during backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from thalweg.gradients.certificate import Certificate
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures


@dataclass(frozen=True, eq=False)
class Differentiated:
    """What a route returns: up to two differentiable batches over the same structures, in the order given."""

    guided: Structures | None
    """X_K, differentiable to the parameters through the K updates; None if the route has no guidance."""
    equilibrium: Structures | None
    """X*, differentiable to the parameters at the fixed point; None if the route does not relax to the end."""
    certificates: list[Certificate]
    """One per structure."""

    def guidance_counts(self) -> Bool[Tensor, " structures"]:
        """Which structures have a usable X_K (finite)."""
        if self.guided is None:
            return torch.zeros(len(self.certificates), dtype=torch.bool)
        finite = torch.isfinite(self.guided.positions.detach()).all(dim=1)
        lost = self.guided.total((~finite).to(self.guided.dtype))
        return lost == 0

    def equilibrium_counts(self) -> Bool[Tensor, " structures"]:
        """Which structures take part in an objective of X*: relaxed, and not refused so far."""
        device = None if self.equilibrium is None else self.equilibrium.device
        present = self.equilibrium is not None
        return torch.tensor([c.took_part and present for c in self.certificates], device=device)


@dataclass(frozen=True)
class Route(ABC):
    """One way to differentiate a relaxation."""

    kind: ClassVar[str]
    """Its name in settings files."""

    @abstractmethod
    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        """Relax the starts and return differentiable structures.

        Args:
            potential: forces and parameters; its parameters receive the gradients.
            starts: where the relaxations begin.
            path: the updates, the finish and the tolerance.

        Raises:
            SettingsError: a horizon larger than the number of updates of the path.
        """

    def tightened(self, tolerance: float) -> Route:
        """Return the route with its inner linear solves at this relative residual; itself if it has none."""
        return self

    @abstractmethod
    def claims(self, potential: Potential, starts: Structures, path: Path) -> dict[str, Callable[[], Structures]]:
        """Return the functions of the parameters whose derivatives this route claims to give.

        Keys are fields of `Differentiated` (`guided`, `equilibrium`); each value evaluates that batch at the
        present parameters, without a graph. Verification takes central differences of them.
        """
