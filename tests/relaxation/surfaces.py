"""Small surfaces with known answers for the tests of the relaxation."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from torch import Tensor

from thalweg.potentials.contract import ConservativePotential, Potential, Prediction
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


def vacancy_in_silicon(sigma: float, seed: int, repeat: int = 2) -> Atoms:
    """Return silicon with one atom removed and the others displaced by `sigma` Å."""
    atoms = bulk("Si", cubic=True) * repeat
    del atoms[seed % len(atoms)]
    atoms.positions += np.random.default_rng(seed).normal(scale=sigma, size=atoms.positions.shape)
    return atoms


class Bowl(ConservativePotential):
    """E = Σ ½ k_z |x − c_z|²: element z has stiffness k_z = 1 + z eV/Å² and centre (3 z, 0, 0) Å."""

    kind: ClassVar[str] = "bowl"
    cutoff = 1.0
    species = tuple(range(1, 20))

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls()

    def centres(self, structures: Structures) -> Tensor:
        centres = torch.zeros_like(structures.positions)
        centres[:, 0] = 3.0 * structures.numbers
        return centres

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        stiffness = 1.0 + structures.numbers.to(structures.dtype)
        away = structures.positions - self.centres(structures)
        return structures.total(0.5 * stiffness * away.square().sum(dim=1))


class Morse(ConservativePotential):
    """Pairs at D ((1 − e^{−a (r − r₀)})² − 1) under a smooth window."""

    kind: ClassVar[str] = "morse"
    cutoff = 5.5
    species = (18,)

    def __init__(self, depth: float = 0.3, a: float = 1.6, r0: float = 2.9) -> None:
        super().__init__()
        self.depth, self.a, self.r0 = depth, a, r0

    @property
    def settings(self) -> dict[str, Any]:
        return {"depth": self.depth, "a": self.a, "r0": self.r0}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(**settings)

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        r = edges.vectors(structures).norm(dim=1)
        e = torch.exp(-self.a * (r - self.r0))
        u = r / self.cutoff
        window = torch.where(u < 1, (1 - u**2).clamp(min=0) ** 4, 0.0)
        pair = 0.5 * self.depth * (e * e - 2 * e) * window
        per_atom = pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)
        return structures.total(per_atom)


class Wrapped(Potential):
    """Passes everything on to another potential; the base of the witnesses and saboteurs below."""

    kind: ClassVar[str] = "wrapped"
    conservative: ClassVar[bool] = True

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner, self.cutoff, self.species = inner, inner.cutoff, inner.species

    @property
    def settings(self) -> dict[str, Any]:
        return self.inner.settings

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        raise NotImplementedError

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        return self.inner(structures, edges=edges, graph=graph, stress=stress)


class Counting(Wrapped):
    """Writes down what each call evaluated."""

    def __init__(self, inner: Potential) -> None:
        super().__init__(inner)
        self.atoms: list[int] = []
        self.ids: list[tuple[str, ...]] = []
        self.edges_given: list[bool] = []

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        self.atoms.append(len(structures.positions))
        self.ids.append(structures.ids)
        self.edges_given.append(edges is not None)
        return super().forward(structures, edges=edges, graph=graph, stress=stress)


class Poisoned(Wrapped):
    """From call number `start` on, the structure `victim` gets a value that is not finite."""

    def __init__(
        self, inner: Potential, victim: str, start: int, value: float, where: str = "forces"
    ) -> None:
        super().__init__(inner)
        self.victim, self.start, self.value, self.where, self.count = victim, start, value, where, 0

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        given = super().forward(structures, edges=edges, graph=graph, stress=stress)
        self.count += 1
        if self.count <= self.start or self.victim not in structures.ids:
            return given
        k = structures.ids.index(self.victim)
        energy, forces = given.energy.clone(), given.forces.clone()
        if self.where == "energy":
            energy[k] = self.value
        else:
            forces[structures.atoms_of([k])[-1], 1] = self.value
        return Prediction(energy=energy, forces=forces)


class Swirl(Potential):
    """Direct forces F = −A x with a matrix A per atom that is not symmetric."""

    kind: ClassVar[str] = "swirl"
    conservative: ClassVar[bool] = False
    cutoff = 1.0
    species = tuple(range(1, 20))
    matrix = torch.tensor([[4.0, 1.5, 0.0], [-1.5, 3.0, 0.5], [0.0, -0.5, 9.0]], dtype=torch.float64)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls()

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        forces = -structures.positions @ self.matrix.T
        energy = structures.total(0.5 * structures.positions.square().sum(dim=1))
        return Prediction(energy=energy, forces=forces)


class PotentialCalculator(Calculator):
    """An ASE calculator over a potential, so that ASE walks on the very same surface."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential, self.count = potential, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.count += 1
        prediction = self.potential(Structures.from_atoms(self.atoms))
        energy = float(prediction.energy[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": prediction.forces.numpy()}


def rattled_argon(repeat: int, sigma: float, seed: int, vacancy: bool = False) -> Atoms:
    """Return an fcc crystal for `Morse`, displaced by `sigma` Å."""
    atoms = bulk("Ar", "fcc", a=4.05, cubic=True) * repeat
    if vacancy:
        del atoms[0]
    atoms.positions += np.random.default_rng(seed).normal(scale=sigma, size=atoms.positions.shape)
    return atoms
