"""A surface with two valleys per atom, where every start's minimum is known without relaxing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from ase import Atoms
from ase.constraints import FixAtoms
from torch import Tensor, nn

from thalweg.potentials.contract import ConservativePotential
from thalweg.relaxation import LBFGS, Descent, Outcome, Path, Relaxation
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges
from thalweg.structures.pairs import Pairs


class Valleys(ConservativePotential):
    """E = ((x − s)² − 1)² + 2 (y² + z²) per hydrogen: minima at s ± 1, ridge at s; helium feels nothing."""

    kind: ClassVar[str] = "valleys"
    cutoff = 1.0
    species = (1, 2)

    def __init__(self, shift: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=dtype))
        self.modes: list[bool] = []
        self.types: list[torch.dtype] = []

    @property
    def settings(self) -> dict[str, Any]:
        return {"shift": float(self.shift)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(**settings)

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        self.modes.append(self.training)
        self.types.append(structures.dtype)
        x, y, z = structures.positions.unbind(dim=1)
        well = ((x - self.shift) ** 2 - 1) ** 2 + 2 * (y**2 + z**2)
        return structures.total(torch.where(structures.numbers == 1, well, 0.0 * x))


def at(places: Sequence[float], prefix: str = "start") -> Structures:
    """Return one structure per place: a hydrogen at (place, 0, 0) and a helium held far away, so no drift."""
    frames = []
    for k, x in enumerate(places):
        frame = Atoms("HHe", positions=[[x, 0.0, 0.0], [0.0, 9.0, 0.0]], info={"id": f"{prefix}-{k}"})
        frame.set_constraint(FixAtoms([1]))
        frames.append(frame)
    return Structures.from_atoms(frames)


def pairs_at(places: Sequence[float]) -> Pairs:
    """Return starts at the places with the minima of `Valleys(0)`, whose energy is zero."""
    minima = [1.0 if x > 0 else -1.0 for x in places]
    names = tuple(str(k) for k in range(len(places)))
    zero = torch.zeros(len(places), dtype=torch.float64)
    return Pairs(at(places), at(minima), names, energy_minimum=zero)


PATH = Path(Descent(alpha=0.05), steps=20, finish=LBFGS(memory=10), fmax=1e-5, max_steps=40)
"""α λ_max = 0.4 at the minima; a start 15 Å out cannot arrive in 60 moves of at most 0.2 Å."""


def ended(structures: Structures, outcome: Outcome = Outcome.CONVERGED, energy: float = 0.0) -> Relaxation:
    """Return a relaxation that claims to have ended there."""
    n = len(structures)
    return Relaxation(
        structures=structures,
        outcomes=(outcome,) * n,
        steps=torch.ones(n, dtype=torch.long),
        fmax=torch.zeros(n, dtype=structures.dtype),
        energy=torch.full((n,), energy, dtype=structures.dtype),
    )
