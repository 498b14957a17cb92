"""Small surfaces with known derivatives, for tests of routes: not potentials anyone should use."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from thalweg.potentials.contract import ConservativePotential, Potential, Prediction
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class Bowl(ConservativePotential):
    """E = ½ (x − c)ᵀ A (x − c) for structures of a fixed number of atoms; X* = c, dX*/dc = 1, dX*/dA = 0."""

    kind: ClassVar[str] = "bowl"

    def __init__(self, matrix: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.cutoff, self.species = 0.5, (14,)
        self.matrix, self.centre = nn.Parameter(matrix), nn.Parameter(centre)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(torch.eye(3), torch.zeros(1, 3))

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        u = structures.positions.reshape(len(structures), -1) - self.centre.reshape(1, -1)
        return 0.5 * ((u @ self.matrix) * u).sum(1)


class Morse(ConservativePotential):
    """E = ½ Σ D_ab (1 − exp(−k_ab (r − r_ab)))² f(r) over pairs of two species, f = (1 − (r/c)²)⁶."""

    kind: ClassVar[str] = "morse"

    def __init__(self, species: tuple[int, int] = (48, 52), cutoff: float = 5.0) -> None:
        super().__init__()
        self.cutoff, self.species = cutoff, species
        self.depth = nn.Parameter(torch.tensor([0.5, 0.9, 0.6], dtype=torch.float64))
        self.stiffness = nn.Parameter(torch.tensor([1.1, 1.3, 1.2], dtype=torch.float64))
        self.length = nn.Parameter(torch.tensor([3.0, 2.7, 3.1], dtype=torch.float64))

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls()

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        second = (structures.numbers == self.species[1]).long()
        kind = second[edges.centre] + second[edges.neighbour]
        r = edges.vectors(structures).norm(dim=1)
        well = self.depth[kind] * (1 - torch.exp(-self.stiffness[kind] * (r - self.length[kind]))) ** 2
        well = (well - self.depth[kind]) * (1 - (r / self.cutoff) ** 2).clamp_min(0) ** 6
        return 0.5 * structures.total(r.new_zeros(len(structures.numbers)).index_add(0, edges.centre, well))


class Twisted(Potential):
    """Direct forces: those of a conservative surface plus a part that is no gradient, `twist` · (x − x_mean) × z."""

    kind: ClassVar[str] = "twisted"
    conservative: ClassVar[bool] = False

    def __init__(self, base: ConservativePotential, twist: float) -> None:
        super().__init__()
        self.base, self.cutoff, self.species = base, base.cutoff, base.species
        self.twist = nn.Parameter(torch.tensor(twist, dtype=torch.float64))

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(Morse(), 0.1)

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        positions = structures.positions
        inner = self.base(structures, edges=edges, graph=graph)
        mean = structures.total(positions) / structures.counts[:, None]
        arm = positions - mean[structures.owner]
        turn = torch.stack([arm[:, 1], -arm[:, 0], torch.zeros_like(arm[:, 0])], dim=1)
        forces = inner.forces + self.twist * turn
        return Prediction(energy=inner.energy, forces=forces if graph else forces.detach())


class Whirl(Potential):
    """Direct forces F = −(x − c) M for structures of a fixed number of atoms: J = −Mᵀ, any matrix."""

    kind: ClassVar[str] = "whirl"
    conservative: ClassVar[bool] = False

    def __init__(self, matrix: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.cutoff, self.species = 0.5, (14,)
        self.matrix, self.centre = nn.Parameter(matrix), nn.Parameter(centre)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(torch.eye(3), torch.zeros(1, 3))

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        u = structures.positions.reshape(len(structures), -1) - self.centre.reshape(1, -1)
        forces = -(u @ self.matrix).reshape(-1, 3)
        energy = 0.5 * u.square().sum(1)
        return Prediction(energy, forces) if graph else Prediction(energy.detach(), forces.detach())
