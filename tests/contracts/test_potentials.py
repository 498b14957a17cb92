"""Every potential keeps the contract: one line in `CASES` joins; each check also rejects a broken one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.contracts import potential_checks as checks
from torch import Tensor, nn

from thalweg.potentials import POTENTIALS, build_potential
from thalweg.potentials.adapters.adapted import Adapted
from thalweg.potentials.adapters.code import allow_code
from thalweg.potentials.contract import ConservativePotential, Potential, Prediction
from thalweg.potentials.radial import smooth_cutoff, softened_length
from thalweg.potentials.reference import Reference
from thalweg.potentials.stillinger_weber import StillingerWeber
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


def tellurides() -> Structures:
    """Cadmium telluride as a cell and as a cluster, 8 atoms each."""
    telluride = bulk("CdTe", "zincblende", a=6.48, cubic=True)
    return _rattled([telluride, Atoms(telluride.numbers, telluride.positions)])


def cells() -> Structures:
    """Silicon and cadmium telluride, in cells of 2 and 8 atoms."""
    return _rattled([bulk("Si"), bulk("CdTe", "zincblende", a=6.48, cubic=True)])


def _rattled(frames: list[Atoms]) -> Structures:
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(7, "contract structures", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)


def painn(**settings: Any) -> Potential:
    """A fresh network in float64 with a reference."""
    potential = build_potential("painn", {"channels": 8, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


def schnet(**settings: Any) -> Potential:
    """A fresh invariant network in float64 with a reference."""
    potential = build_potential("schnet", {"channels": 8, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


def transformer(**settings: Any) -> Potential:
    """A fresh small cell-blind transformer in float64 with a reference."""
    small = {"width": 32, "feed_forward": 48, "layers": 2, "heads": 4}
    potential = build_potential("transformer", {**small, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


def fully_connected(**settings: Any) -> Potential:
    """A fresh small network on padded coordinates in float64 with a reference."""
    potential = build_potential("fully_connected", {"atoms": 17, "width": 24, "layers": 2, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


def equivariant(**settings: Any) -> Potential:
    """A fresh small equivariant network in float64 with a reference."""
    potential = build_potential("equivariant", {"channels": 3, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


def foreign(**settings: Any) -> Potential:
    """The foreign torch module of the documentation's example in float64, with a reference."""
    factory = f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'torch_morse.py'}:make"
    allow_code(factory)
    potential = build_potential("torch", {"factory": factory, "cutoff": 4.2, **settings})
    potential.set_reference(Reference({z: -1.0 - 0.1 * z for z in potential.species}, scale=1.3))  # type: ignore[attr-defined, operator]
    return potential.double()


@dataclass(frozen=True)
class Claims:
    """What a potential says of itself; what it does not claim it is proven to lack."""

    conservative: bool = True
    """Forces are the gradient of the energy."""
    stress: bool = True
    """It gives a stress; without the claim it refuses to."""
    translation: bool = True
    """Nothing changes with a translation."""
    images: bool = True
    """Nothing changes with the periodic image of an atom."""
    permutation: bool = True
    """Renumbering the atoms renumbers forces and nothing else."""
    clusters: bool = True
    """It describes structures without a cell; without the claim it refuses them."""
    equivariant: bool = True
    """Energy and forces follow rotations and reflections exactly."""
    additive: bool = True
    """Energies of clusters far apart add up."""
    smooth: bool = True
    """Beyond the cutoff atoms do not feel each other; the energy has three continuous derivatives there."""


@dataclass(frozen=True)
class Case:
    """A potential under the contract."""

    name: str
    make: Callable[[], Potential]
    structures: Callable[[], Structures]
    claims: Claims = Claims()


CELL_BLIND = Claims(
    conservative=False, stress=False, translation=False, images=False, equivariant=False, additive=False, smooth=False
)
"""A distance bias alone changes none of these: the coordinates of the tokens stay what they are."""
FRACTIONAL = replace(CELL_BLIND, images=True, clusters=False)
UNSTRUCTURED = replace(CELL_BLIND, conservative=True, stress=True, permutation=False)

CASES = [
    Case("painn", lambda: painn(species=[14, 48, 52]), compounds),
    Case("painn of one layer", lambda: painn(species=[14], layers=1), silicon),
    Case("schnet", lambda: schnet(species=[14, 48, 52]), compounds),
    Case("stillinger-weber of silicon", lambda: StillingerWeber.from_published("Si"), silicon),
    Case("stillinger-weber of CdTe", lambda: StillingerWeber.from_published("CdTe-2013"), tellurides),
    Case("transformer", lambda: transformer(species=[14, 48, 52]), compounds, CELL_BLIND),
    Case("transformer, plain attention", lambda: transformer(species=[14], attention="plain"), silicon, CELL_BLIND),
    Case(
        "transformer, distance bias",
        lambda: transformer(species=[14, 48, 52], distance_bias="minimum-image", cutoff=4.0),
        compounds,
        CELL_BLIND,
    ),
    Case(
        "transformer, fractional",
        lambda: transformer(species=[14, 48, 52], coordinates="fractional"),
        cells,
        FRACTIONAL,
    ),
    Case(
        "transformer, fractional, distance bias, plain attention",
        lambda: transformer(
            species=[14, 48, 52], coordinates="fractional", distance_bias="minimum-image", cutoff=4.0, attention="plain"
        ),
        cells,
        FRACTIONAL,
    ),
    Case("fully connected", lambda: fully_connected(species=[14, 48, 52]), compounds, UNSTRUCTURED),
    Case("painn of three, Gaussians", lambda: painn(species=[14], layers=3, radial="gaussian"), silicon),
    Case("equivariant", lambda: equivariant(species=[14, 48, 52]), compounds),
    Case("equivariant, cubic", lambda: equivariant(species=[14], layers=1, l_max=3, correlation=3), silicon),
    Case("foreign torch module", lambda: foreign(species=[14, 48, 52]), compounds),
]

ALWAYS: list[checks.Check] = [
    checks.forces_differentiate,
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
    "conservative": [checks.forces_are_the_gradient, checks.hessian_is_symmetric],
    "stress": [checks.stress_is_the_strain_derivative],
    "translation": [checks.translation],
    "images": [checks.images],
    "permutation": [checks.permutation],
    "clusters": [checks.clusters],
    "equivariant": [checks.rotation, checks.reflection],
    "additive": [checks.additivity],
    "smooth": [checks.smooth_cutoff],
}
REFUSALS: dict[str, list[checks.Check]] = {
    "stress": [checks.stress_refused],
    "clusters": [checks.clusters_refused],
}
"""What holds instead where a claim is not made; for every other claim its checks must fail."""
OF_CLUSTERS = {"additive", "smooth"}
"""Claims that are checked on clusters: nothing to prove where those are refused."""
EVERY = [*ALWAYS, *(check for group in CLAIMED.values() for check in group)]


def lacking(check: checks.Check) -> checks.Check:
    """Return the check that a potential does not pass `check`: that a claim is left out for a reason."""

    def proof(potential: Potential, structures: Structures) -> None:
        try:
            check(potential, structures)
        except AssertionError:
            return
        pytest.fail(f"{check.__name__} holds, though the claim is not made: claim it")

    proof.__name__ = f"lacks_{check.__name__}"
    return proof


def checks_of(claims: Claims) -> list[checks.Check]:
    """Return the checks that a potential with these claims must pass."""
    wanted = list(ALWAYS)
    for claim, group in CLAIMED.items():
        if claim in OF_CLUSTERS and not claims.clusters:
            continue
        refusals = REFUSALS.get(claim, [lacking(check) for check in group])
        wanted += group if getattr(claims, claim) else refusals
    return wanted


@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(case, check, id=f"{case.name}-{check.__name__}")
        for case in CASES
        for check in checks_of(case.claims)
    ],
)
def test_potential_keeps(case: Case, check: checks.Check) -> None:
    check(case.make(), case.structures())


@pytest.mark.parametrize("claim", [claim for claim in CLAIMED if claim not in REFUSALS])
def test_a_claim_left_out_without_reason_is_rejected(claim: str, toy: Callable[[type[Whole]], Whole]) -> None:
    for check in CLAIMED[claim]:
        with pytest.raises(pytest.fail.Exception, match="claim it"):
            lacking(check)(toy(Whole), silicon())


def test_a_stress_given_where_none_is_claimed_is_rejected(toy: Callable[[type[Whole]], Whole]) -> None:
    periodic = silicon().select([0, 1])
    with pytest.raises(pytest.fail.Exception):
        checks.stress_refused(toy(Whole), periodic)


def test_clusters_answered_where_none_are_claimed_are_rejected(toy: Callable[[type[Whole]], Whole]) -> None:
    with pytest.raises(pytest.fail.Exception):
        checks.clusters_refused(toy(Whole), silicon())


def test_every_kind_is_under_the_contract() -> None:
    elsewhere = {kind for kind, potential in POTENTIALS.items() if issubclass(potential, Adapted)}
    assert {case.make().kind for case in CASES} == set(POTENTIALS) - elsewhere
    for kind in elsewhere:  # their tests run where their packages are installed
        name = kind.partition("-")[0]
        beside = Path(__file__).parents[1] / "potentials" / "adapters" / f"test_{name}.py"
        assert "checks_of" in beside.read_text(encoding="utf-8")


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
