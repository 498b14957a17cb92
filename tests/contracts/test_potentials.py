"""Every potential keeps the contract: one line in `CASES` joins. What the checks reject: `test_potential_checks.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import potential_checks as checks
from tests.contracts.crystals import cells, compounds, oxides, silicon, tellurides, titanium

from thalweg.potentials import POTENTIALS, build_potential
from thalweg.potentials.adapters.code import allow_code
from thalweg.potentials.contract import Potential
from thalweg.potentials.reference import Reference
from thalweg.potentials.rigid_ion import RigidIon
from thalweg.potentials.second_moment import SecondMoment
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures

SMALL: dict[str, dict[str, Any]] = {
    "painn": {"channels": 8},
    "schnet": {"channels": 8},
    "transformer": {"width": 32, "feed_forward": 48, "layers": 2, "heads": 4},
    "fully_connected": {"atoms": 17, "width": 24, "layers": 2},
    "equivariant": {"channels": 3},
    "torch": {"factory": f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'torch_morse.py'}:make", "cutoff": 4.2},
}
"""Settings of the smallest sizes; `torch` is the foreign module of the documentation's example."""


def fresh(kind: str, **settings: Any) -> Potential:
    """A small potential with fresh parameters, in float64 and with a reference."""
    told = {**SMALL[kind], **settings}
    if "factory" in told:
        allow_code(told["factory"])
    potential = build_potential(kind, told)
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
    Case("painn", lambda: fresh("painn", species=[14, 48, 52]), compounds),
    Case("painn of one layer", lambda: fresh("painn", species=[14], layers=1), silicon),
    Case("schnet", lambda: fresh("schnet", species=[14, 48, 52]), compounds),
    Case("stillinger-weber of silicon", lambda: StillingerWeber.from_published("Si"), silicon),
    Case("stillinger-weber of CdTe", lambda: StillingerWeber.from_published("CdTe-2013"), tellurides),
    Case("second-moment", lambda: SecondMoment.from_set("Ti-adsorbates"), titanium),
    Case("rigid ions of MgO", lambda: RigidIon.from_published("MgO"), oxides),
    Case("transformer", lambda: fresh("transformer", species=[14, 48, 52]), compounds, CELL_BLIND),
    Case(
        "transformer, plain attention",
        lambda: fresh("transformer", species=[14], attention="plain"),
        silicon,
        CELL_BLIND,
    ),
    Case(
        "transformer, distance bias",
        lambda: fresh("transformer", species=[14, 48, 52], distance_bias="minimum-image", cutoff=4.0),
        compounds,
        CELL_BLIND,
    ),
    Case(
        "transformer, fractional",
        lambda: fresh("transformer", species=[14, 48, 52], coordinates="fractional"),
        cells,
        FRACTIONAL,
    ),
    Case(
        "transformer, fractional, distance bias, plain attention",
        lambda: fresh(
            "transformer",
            species=[14, 48, 52],
            coordinates="fractional",
            distance_bias="minimum-image",
            cutoff=4.0,
            attention="plain",
        ),
        cells,
        FRACTIONAL,
    ),
    Case("fully connected", lambda: fresh("fully_connected", species=[14, 48, 52]), compounds, UNSTRUCTURED),
    Case("painn of three, Gaussians", lambda: fresh("painn", species=[14], layers=3, radial="gaussian"), silicon),
    Case("equivariant", lambda: fresh("equivariant", species=[14, 48, 52]), compounds),
    Case("equivariant, cubic", lambda: fresh("equivariant", species=[14], layers=1, l_max=3, correlation=3), silicon),
    Case("foreign torch module", lambda: fresh("torch", species=[14, 48, 52]), compounds),
]


def _wanted(claims: Claims) -> list[checks.Check]:
    wanted = list(checks.ALWAYS)
    for claim, group in checks.CLAIMED.items():
        if claim in checks.OF_CLUSTERS and not claims.clusters:
            continue
        refusals = checks.REFUSALS.get(claim, [checks.lacking(check) for check in group])
        wanted += group if getattr(claims, claim) else refusals
    return wanted


@pytest.mark.parametrize(
    ("case", "check"),
    [pytest.param(case, check, id=f"{case.name}-{check.__name__}") for case in CASES for check in _wanted(case.claims)],
)
def test_potential_keeps(case: Case, check: checks.Check) -> None:
    check(case.make(), case.structures())


def test_every_kind_is_under_the_contract() -> None:
    elsewhere = {"metatomic"}  # needs a file of that package: tests/potentials/adapters/test_metatomic_energy.py
    assert {case.make().kind for case in CASES} == set(POTENTIALS) - elsewhere
