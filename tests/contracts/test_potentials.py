"""Every potential keeps the contract: one line in `CASES` joins; each check also rejects a broken one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.contracts import potential_checks as checks
from torch import Tensor, nn

from thalweg.potentials import POTENTIALS, build_potential
from thalweg.potentials.contract import ConservativePotential, Potential, Prediction
from thalweg.potentials.radial import smooth_cutoff, softened_length
from thalweg.potentials.reference import Reference
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


def silicon() -> Structures:
    """A strained cell, a primitive cell and a cluster of silicon, rattled by 0.1 Å."""
    strained = bulk("Si", cubic=True)
    deformation = np.array([[1.0, 0.03, 0.0], [0.0, 1.0, 0.0], [0.02, 0.0, 0.96]])
    strained.set_cell(strained.cell.array @ deformation, scale_atoms=True)
    cluster = bulk("Si", cubic=True)
    return _rattled([strained, bulk("Si"), Atoms(cluster.numbers, cluster.positions)])


def compounds() -> Structures:
    """Silicon and cadmium telluride, in cells and as a cluster."""
    telluride = bulk("CdTe", "zincblende", a=6.48, cubic=True)
    return _rattled([bulk("Si", cubic=True), telluride, Atoms(telluride.numbers, telluride.positions)])


def _rattled(frames: list[Atoms]) -> Structures:
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(7, "contract structures", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)


def painn(**settings: Any) -> Potential:
    """A fresh network in float64 with a reference."""
    potential = build_potential("painn", {"channels": 8, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


@dataclass(frozen=True)
class Claims:
    """What a potential says of itself; checks of what it does not claim are not run on it."""

    conservative: bool = True
    """Forces are the gradient of the energy, and differentiate again."""
    stress: bool = True
    """It gives a stress."""
    equivariant: bool = True
    """Energy and forces follow rotations and reflections exactly."""
    smooth: bool = True
    """The energy has three continuous derivatives where an atom crosses the cutoff."""


@dataclass(frozen=True)
class Case:
    """A potential under the contract."""

    name: str
    make: Callable[[], Potential]
    structures: Callable[[], Structures]
    claims: Claims = Claims()


CASES = [
    Case("painn", lambda: painn(species=[14, 48, 52]), compounds),
    Case("painn of one layer", lambda: painn(species=[14], layers=1), silicon),
    Case("painn of three, Gaussians", lambda: painn(species=[14], layers=3, radial="gaussian"), silicon),
]

ALWAYS: list[checks.Check] = [
    checks.translation,
    checks.permutation,
    checks.additivity,
    checks.energy_differentiates_to_parameters,
    checks.batch_independence,
    checks.determinism,
    checks.floating_types,
    checks.saved_and_loaded,
    checks.unknown_element_refused,
    checks.detached_without_graph,
    checks.long_edge_lists,
]
CLAIMED: dict[str, list[checks.Check]] = {
    "conservative": [checks.forces_are_the_gradient, checks.double_backward],
    "stress": [checks.stress_is_the_strain_derivative],
    "equivariant": [checks.rotation, checks.reflection],
    "smooth": [checks.smooth_cutoff],
}
EVERY = [*ALWAYS, *(check for group in CLAIMED.values() for check in group)]


def _wanted(claims: Claims) -> list[checks.Check]:
    return [*ALWAYS, *(c for claim, group in CLAIMED.items() if getattr(claims, claim) for c in group)]


@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(case, check, id=f"{case.name}-{check.__name__}")
        for case in CASES
        for check in _wanted(case.claims)
    ],
)
def test_potential_keeps(case: Case, check: checks.Check) -> None:
    check(case.make(), case.structures())


def test_every_kind_is_under_the_contract() -> None:
    assert {case.make().kind for case in CASES} == set(POTENTIALS)


# potentials broken on purpose, and the whole one they come from


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
            zero.index_add(0, edges.centre, (f * r.square().sum(dim=1).pow(n)).unsqueeze(1) * r)
            for n in range(3)
        )
        return super().energy(structures, edges) + structures.total(
            1e-4 * (a * torch.linalg.cross(b, c)).sum(dim=1)
        )


FAULTS: list[tuple[checks.Check, type[Whole]]] = [
    (checks.translation, Anchored),
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
    (checks.double_backward, FirstOrderOnly),
    (checks.double_backward, DeafParameter),
    (checks.stress_is_the_strain_derivative, Compressed),
    (checks.rotation, Upright),
    (checks.reflection, Handed),
    (checks.smooth_cutoff, HardCutoff),
    (checks.smooth_cutoff, ThreefoldZero),
]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Whole]], Whole]:
    """Make a toy that model files know, having learned something since it was built."""

    def make(kind: type[Whole]) -> Whole:
        monkeypatch.setitem(POTENTIALS, kind.kind, kind)
        potential = kind()
        potential.k.data += 0.01
        if isinstance(potential, Forgetful):
            potential.learned = 1.1
        return potential

    return make


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__)
def test_whole_potential_passes(check: checks.Check, toy: Callable[[type[Whole]], Whole]) -> None:
    check(toy(Whole), silicon())


@pytest.mark.parametrize(("check", "kind"), FAULTS, ids=lambda x: x.__name__)
def test_broken_potential_is_rejected(
    check: checks.Check, kind: type[Whole], toy: Callable[[type[Whole]], Whole]
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(toy(kind), silicon())


def test_handed_potential_turns_with_rotations(toy: Callable[[type[Whole]], Whole]) -> None:
    checks.rotation(toy(Handed), silicon())


def test_every_check_rejects_something() -> None:
    assert {check for check, _ in FAULTS} == set(EVERY)
