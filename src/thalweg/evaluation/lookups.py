"""Lookups: what labels alone are worth, without a potential; the least that a trained one must beat.

    species mean     E = Σ_i s_{z_i}, F = 0                 s by least squares on compositions
    nearest frame    E = E_k, F = F_k                       k the training frame with the nearest descriptor

They keep no potential's contract (no parameters, no derivatives, nothing to relax on), so they stand here as
predictors, and `measure_lookup_errors` compares them with labels as potentials are compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError, SettingsError
from thalweg.evaluation.label_errors import LabelErrors, compare_labels
from thalweg.potentials.contract import Prediction
from thalweg.potentials.radial import RadialBasis, softened_length
from thalweg.potentials.reference import fit_reference
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import find_edges
from thalweg.structures.pairs import Frames

_RADIAL_FUNCTIONS = 16


class Lookup(ABC):
    """A predictor read off labelled frames."""

    kind: ClassVar[str]
    """Its name in tables."""

    @classmethod
    @abstractmethod
    def fit(cls, frames: Frames) -> Self:
        """Read the predictor off labelled frames.

        Raises:
            SettingsError: there are no frames.
        """

    @abstractmethod
    def predict(self, structures: Structures) -> Prediction:
        """Return energies (eV) and forces (eV/Å), in the floating type of the structures.

        Raises:
            PotentialError: a structure that the frames say nothing about.
        """


class SpeciesMean(Lookup):
    """The energy of the composition, and no forces."""

    kind: ClassVar[str] = "species-mean"

    def __init__(self, energies: dict[int, float]) -> None:
        """Keep the energy of each element.

        Args:
            energies: eV, by atomic number.
        """
        self.energies = dict(energies)

    @classmethod
    def fit(cls, frames: Frames) -> Self:
        """Fit the energies of the elements as `fit_reference` fits shifts.

        Raises:
            SettingsError: there are no frames.
            StructureError: labels that are not finite, or forces that are all zero.
        """
        _refuse_none(frames)
        return cls(fit_reference(frames.structures, frames.energy, frames.forces).shift)

    def predict(self, structures: Structures) -> Prediction:
        """Return the sum over atoms and zero forces.

        Raises:
            PotentialError: an element that no frame held.
        """
        known = torch.tensor(sorted(self.energies), device=structures.device)
        strange = ~torch.isin(structures.numbers, known)
        if bool(strange.any()):
            atom = int(strange.nonzero()[0])
            name, element = structures.ids[int(structures.owner[atom])], chemical_symbols[int(structures.numbers[atom])]
            raise PotentialError(f"structure {name!r} contains {element}, which no frame held: fit to frames with it")
        table = structures.positions.new_tensor([self.energies[int(z)] for z in known])
        energy = structures.total(table[torch.searchsorted(known, structures.numbers)])
        return Prediction(energy, torch.zeros_like(structures.positions))


class NearestFrame(Lookup):
    """The labels of the frame with the nearest descriptor among those with the same atoms in the same order.

    The descriptor of a structure is the mean over atoms, for every pair of elements, of sixteen radial functions
    summed over neighbours: blind to place, orientation, numbering and choice of images. Forces are carried over
    atom by atom as they stand in the frame, and do not turn with the structure.
    """

    kind: ClassVar[str] = "nearest-frame"

    def __init__(self, frames: Frames, *, cutoff: float = 5.0) -> None:
        """Describe the frames.

        Args:
            frames: labelled frames to look up in, at least one.
            cutoff: reach of the descriptor, Å, above 0.

        Raises:
            SettingsError: there are no frames.
            PotentialError: a cutoff that is not above 0.
        """
        _refuse_none(frames)
        self.frames = frames.to(dtype=torch.float64)
        self.radial = RadialBasis("gaussian", cutoff, _RADIAL_FUNCTIONS)
        self.species = torch.unique(frames.structures.numbers)
        self.described = self.describe(self.frames.structures)
        self.places: dict[tuple[int, ...], list[int]] = {}
        for k, atoms in enumerate(_atoms(frames.structures)):
            self.places.setdefault(atoms, []).append(k)

    @classmethod
    def fit(cls, frames: Frames) -> Self:
        """Look up in these frames, with the default reach; see `NearestFrame`.

        Raises:
            SettingsError: there are no frames.
        """
        return cls(frames)

    def describe(self, structures: Structures) -> Float[Tensor, "structures numbers"]:
        """Return the descriptors of structures made of the elements of the frames."""
        edges = find_edges(structures, self.radial.cutoff)
        radial = self.radial(softened_length(edges.vectors(structures).T)).T  # edges, radial
        element, kinds = torch.searchsorted(self.species, structures.numbers), len(self.species)
        row = structures.owner[edges.centre] * kinds**2 + element[edges.centre] * kinds + element[edges.neighbour]
        sums = radial.new_zeros((len(structures) * kinds**2, _RADIAL_FUNCTIONS)).index_add(0, row, radial)
        return sums.view(len(structures), -1) / structures.counts[:, None]

    def nearest(self, structures: Structures) -> list[int]:
        """Return the index of the nearest frame of every structure; of equally near ones the first.

        Raises:
            PotentialError: a structure whose atoms no frame has in the same order.
        """
        atoms = _atoms(structures)
        for name, numbers in zip(structures.ids, atoms, strict=True):
            if numbers not in self.places:
                raise PotentialError(
                    f"structure {name!r} of {len(numbers)} atoms has no frame with the same elements in the same order "
                    "to look up: add one or leave the structure out"
                )
        described = self.describe(structures.detach().to("cpu", torch.float64))
        found = []
        for row, numbers in zip(described, atoms, strict=True):
            places = self.places[numbers]
            found.append(places[int((self.described[places] - row).norm(dim=1).argmin())])
        return found

    def predict(self, structures: Structures) -> Prediction:
        """Return the labels of the nearest frames.

        Raises:
            PotentialError: a structure whose atoms no frame has in the same order.
        """
        chosen = self.frames.select(self.nearest(structures))
        x = structures.positions
        return Prediction(chosen.energy.to(x), chosen.forces.to(x))


LOOKUPS: dict[str, type[Lookup]] = {lookup.kind: lookup for lookup in (SpeciesMean, NearestFrame)}
"""Every lookup, by its name in tables."""


def measure_lookup_errors(lookup: Lookup, frames: Frames) -> LabelErrors:
    """Compare a lookup with labels it has not seen, as `measure_label_errors` compares a potential.

    Args:
        lookup: what is judged.
        frames: labelled frames.

    Raises:
        SettingsError: there are no frames.
        PotentialError: a structure that the lookup says nothing about.
    """
    _refuse_none(frames)
    frames = frames.to(dtype=torch.float64)
    found = lookup.predict(frames.structures)
    return compare_labels(frames, found.energy, found.forces)


def _atoms(structures: Structures) -> list[tuple[int, ...]]:
    numbers = structures.numbers.tolist()
    return [tuple(numbers[a:b]) for a, b in zip(structures.offsets[:-1], structures.offsets[1:], strict=True)]


def _refuse_none(frames: Frames) -> None:
    if len(frames) == 0:
        raise SettingsError("there are no labelled frames: give at least one")
