"""A potential of your own, whole: Morse pairs. In the package it would be one file and one line in `POTENTIALS`."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.radial import smooth_cutoff, softened_length
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class Morse(ConservativePotential):
    """E = ½ Σ_pairs D ((1 − exp(−a (d − r)))² − 1) f(d), with f smooth to the third derivative at the cutoff."""

    kind: ClassVar[str] = "morse"

    def __init__(self, species: list[int], cutoff: float = 5.0) -> None:
        super().__init__()
        self.species, self.cutoff = tuple(sorted(species)), cutoff
        self.depth = nn.Parameter(torch.tensor(0.6))  # D, eV
        self.steepness = nn.Parameter(torch.tensor(1.4))  # a, 1/Å
        self.length = nn.Parameter(torch.tensor(2.5))  # r, Å

    @property
    def settings(self) -> dict[str, Any]:
        """What a model file keeps beside the tensors."""
        return {"species": list(self.species), "cutoff": self.cutoff}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build one again; unknown keys are the user's mistake and one line."""
        if strange := set(settings) - {"species", "cutoff"}:
            raise PotentialError(f"morse has no setting {sorted(strange)[0]!r}: known: cutoff, species")
        return cls(**settings)

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        """Return the energy of each structure; forces, stress and second derivatives follow from it."""
        self.check(structures)  # elements it never saw are refused by name
        distance = softened_length(edges.vectors(structures).T)  # differentiable to positions and cell
        stretched = torch.exp(-self.steepness * (distance - self.length))
        pair = 0.5 * self.depth * ((1 - stretched) ** 2 - 1) * smooth_cutoff(distance, self.cutoff)
        per_atom = pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)
        return structures.total(per_atom)
