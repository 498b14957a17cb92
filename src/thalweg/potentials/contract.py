"""The contract every potential keeps: `Structures` in, energy, forces and stress out, differentiable again.

A conservative potential gives an energy and inherits forces −∂E/∂X and stress; a direct one gives forces from a
head of its own. `graph=True` keeps the forces differentiable (to parameters, positions and cell), which is what
training through relaxation needs. Potentials work on the edges they are given, so a caller that evaluates
derivatives at one fixed point searches neighbours once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges, find_edges


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a potential says about a batch of structures."""

    energy: Float[Tensor, " structures"]
    """Potential energy, eV."""
    forces: Float[Tensor, "atoms 3"]
    """Forces, eV/Å (fixed components included: masking is the relaxation's business)."""
    stress: Float[Tensor, "structures 3 3"] | None = None
    """Cauchy stress, eV/Å³, positive under tension: (1/V) ∂E/∂strain; None when not asked for."""


class Potential(nn.Module, ABC):
    """An interatomic potential with learnable parameters."""

    kind: ClassVar[str]
    """Its name in settings files and checkpoints."""
    conservative: ClassVar[bool]
    """True if forces are −∂E/∂X."""
    takes_species: ClassVar[bool] = True
    """Whether its settings have `species`, which training takes from its frames where they are not given."""
    cutoff: float
    """Range of the neighbour list, Å."""
    species: tuple[int, ...]
    """Atomic numbers it can describe, ascending."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain values (JSON types) from which `from_settings` builds the same architecture."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a potential, with fresh parameters, from `settings`.

        Raises:
            PotentialError: an unknown key, a wrong type or a value outside its range.
        """

    @abstractmethod
    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        """Evaluate a batch.

        Args:
            structures: the batch; its floating type must be that of the parameters.
            edges: neighbour list at `cutoff`, found afresh when None.
            graph: keep the graph, so that energy, forces and stress can be differentiated to parameters,
                positions and cell; without it everything returned is detached.
            stress: also return the stress.

        Raises:
            PotentialError: an element outside `species`.
        """

    def edges(self, structures: Structures) -> Edges:
        """Find the neighbour list this potential works on."""
        return find_edges(structures, self.cutoff)

    def check(self, structures: Structures) -> None:
        """Refuse elements the potential does not know.

        Raises:
            PotentialError: naming the element, the structure and what is known.
        """
        known = torch.tensor(self.species, device=structures.device)
        strange = ~torch.isin(structures.numbers, known)
        if strange.any():
            atom = int(strange.nonzero()[0])
            element = chemical_symbols[int(structures.numbers[atom])]
            allowed = ", ".join(chemical_symbols[z] for z in self.species)
            raise PotentialError(
                f"structure {structures.ids[int(structures.owner[atom])]!r} contains {element}, which this "
                f"{self.kind} potential never saw; it knows {allowed}: train one with {element} or leave it out"
            )


class ConservativePotential(Potential):
    """A potential given by its energy; forces and stress are its derivatives."""

    conservative: ClassVar[bool] = True

    @abstractmethod
    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV: smooth in positions and cell, additive over atoms."""

    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        """Evaluate a batch; see `Potential.forward`."""
        if edges is None:
            edges = self.edges(structures)
        positions, cell = structures.positions, structures.cell
        with torch.enable_grad():
            if not (graph and positions.requires_grad):
                positions = positions.detach().requires_grad_()
            strain = None
            moved = structures.with_positions(positions)
            if stress:  # deform positions and cell by a strain that is zero: x → x (1 + ε)
                strain = positions.new_zeros((len(structures), 3, 3), requires_grad=True)
                symmetric = 0.5 * (strain + strain.transpose(1, 2))
                stretched = (positions.unsqueeze(1) @ symmetric[structures.owner]).squeeze(1)
                moved = structures.with_positions(positions + stretched).with_cell(cell + cell @ symmetric)
            energy = self.energy(moved, edges)
            inputs = [positions] if strain is None else [positions, strain]
            gradients = torch.autograd.grad(energy.sum(), inputs, create_graph=graph)
        forces = -gradients[0]
        cauchy = None
        if strain is not None:
            volume = torch.linalg.det(cell).abs()
            cauchy = gradients[1] / volume[:, None, None]
        if not graph:
            energy = energy.detach()
        return Prediction(energy=energy, forces=forces, stress=cauchy)
