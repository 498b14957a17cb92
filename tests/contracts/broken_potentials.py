"""Potentials broken on purpose, each in one way, and the whole one they come from: what the checks must reject."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from tests.contracts import potential_checks as checks
from torch import Tensor, nn

from thalweg.potentials.contract import ConservativePotential, Prediction
from thalweg.potentials.radial import smooth_cutoff, softened_length
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class Whole(ConservativePotential):
    """A many-body toy without fault: E = Σ_i k g_i², g_i = Σ_j (s − d_ij)² f(d_ij)."""

    kind: ClassVar[str] = "toy"

    def __init__(self) -> None:
        super().__init__()
        self.cutoff, self.species = 4.2, (14,)
        self.k = nn.Parameter(torch.tensor(0.07, dtype=torch.float64))
        self.s = nn.Parameter(torch.tensor(2.1, dtype=torch.float64))

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls()

    def density(self, structures: Structures, edges: Edges) -> Tensor:
        d = softened_length(edges.vectors(structures).T)
        pair = (self.s - d).square() * smooth_cutoff(d, self.cutoff)
        return pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        self.check(structures)
        return structures.total(self.k * self.density(structures, edges).square())


class Anchored(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return super().energy(structures, edges) + structures.total(1e-4 * structures.positions[:, 0].sin())


class Wrapping(Whole):
    """Feels how far atoms lie from their mean, whichever images they are."""

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        mean = structures.total(structures.positions) / structures.counts[:, None]
        away = structures.positions - mean[structures.owner]
        return super().energy(structures, edges) + structures.total(1e-4 * away.square().sum(dim=1))


class Bounded(Whole):
    """Divides by a volume that clusters do not have."""

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        volume = torch.linalg.det(structures.cell)
        return super().energy(structures, edges) * (volume / volume)


class Numbered(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        rank = torch.arange(len(structures.positions), dtype=structures.dtype)
        return structures.total((self.k + 1e-4 * rank) * self.density(structures, edges).square())


class NotAdditive(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return super().energy(structures, edges) * (1 + 1e-3 * super().energy(structures, edges))


class Frozen(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return super().energy(structures, edges).detach() + structures.total(0.0 * structures.positions[:, 0])


class Crowded(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return super().energy(structures, edges) * (1 + 1e-3 * len(structures))


class Restless(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return super().energy(structures, edges) * (1 + 1e-12 * torch.rand(()).item())


class Widening(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return super().energy(structures, edges).double()


class Forgetful(Whole):
    def __init__(self) -> None:
        super().__init__()
        self.learned = 1.0

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        return self.learned * super().energy(structures, edges)


class Unconcerned(Whole):
    def check(self, structures: Structures) -> None:
        pass


class Clinging(Whole):
    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        return super().forward(structures, edges=edges, graph=True, stress=stress)


class HardCutoff(Whole):
    def density(self, structures: Structures, edges: Edges) -> Tensor:
        d = softened_length(edges.vectors(structures).T)
        return d.new_zeros(len(structures.positions)).index_add(0, edges.centre, (self.s - d).square())


class ThreefoldZero(Whole):
    """Its third derivative jumps at the cutoff."""

    def density(self, structures: Structures, edges: Edges) -> Tensor:
        d = softened_length(edges.vectors(structures).T)
        pair = (self.s - d).square() * (1 - d / self.cutoff).clamp(min=0.0).pow(3)
        return pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)


class DroppedTerm(Whole):
    def density(self, structures: Structures, edges: Edges) -> Tensor:
        d = softened_length(edges.vectors(structures).T)
        pair = (self.s - d).square() * smooth_cutoff(d.detach(), self.cutoff)
        return pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)


class FirstOrderOnly(Whole):
    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        g = self.density(structures, edges)
        return structures.total(self.k * (2 * g * g.detach() - g.detach().square()))


class DeafParameter(Whole):
    def density(self, structures: Structures, edges: Edges) -> Tensor:
        d = softened_length(edges.vectors(structures).T)
        pair = (self.s.detach() - d).square() * smooth_cutoff(d, self.cutoff)
        return pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)


class Swirling(Whole):
    """Adds forces that no energy has."""

    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        found = super().forward(structures, edges=edges, graph=graph, stress=stress)
        swirl = 1e-3 * structures.positions.roll(1, dims=1)
        forces = found.forces + (swirl if graph else swirl.detach())
        return Prediction(found.energy, forces, found.stress)


class Compressed(Whole):
    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        found = super().forward(structures, edges=edges, graph=graph, stress=stress)
        return Prediction(found.energy, found.forces, None if found.stress is None else -found.stress)


class Upright(Whole):
    """Prefers the z axis: invariant to no rotation but about it."""

    def density(self, structures: Structures, edges: Edges) -> Tensor:
        r = edges.vectors(structures).T
        d = softened_length(r)
        pair = (self.s - d).square() * smooth_cutoff(d, self.cutoff) * (1 + 1e-3 * (r[2] / d).square())
        return pair.new_zeros(len(structures.positions)).index_add(0, edges.centre, pair)


class Handed(Whole):
    """Tells left from right by a triple product of moments of the neighbourhood; turns with rotations."""

    def energy(self, structures: Structures, edges: Edges) -> Tensor:
        r = edges.vectors(structures)
        f = smooth_cutoff(softened_length(r.T), self.cutoff)
        zero = r.new_zeros((len(structures.positions), 3))
        a, b, c = (
            zero.index_add(0, edges.centre, (f * r.square().sum(dim=1).pow(n)).unsqueeze(1) * r) for n in range(3)
        )
        return super().energy(structures, edges) + structures.total(1e-4 * (a * torch.linalg.cross(b, c)).sum(dim=1))


FAULTS: list[tuple[checks.Check, type[Whole]]] = [
    (checks.translation, Anchored),
    (checks.images, Wrapping),
    (checks.clusters, Bounded),
    (checks.permutation, Numbered),
    (checks.additivity, NotAdditive),
    (checks.energy_differentiates_to_parameters, Frozen),
    (checks.batch_independence, Crowded),
    (checks.determinism, Restless),
    (checks.floating_types, Widening),
    (checks.saved_and_loaded, Forgetful),
    (checks.unknown_element_refused, Unconcerned),
    (checks.detached_without_graph, Clinging),
    (checks.long_edge_lists, HardCutoff),
    (checks.forces_are_the_gradient, DroppedTerm),
    (checks.forces_differentiate, FirstOrderOnly),
    (checks.forces_differentiate, DeafParameter),
    (checks.hessian_is_symmetric, Swirling),
    (checks.stress_is_the_strain_derivative, Compressed),
    (checks.rotation, Upright),
    (checks.reflection, Handed),
    (checks.smooth_cutoff, HardCutoff),
    (checks.smooth_cutoff, ThreefoldZero),
]
