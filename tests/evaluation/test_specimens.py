"""Every kind of potential has a specimen on which verification passes; what cannot be verified is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contracts.package_models import MODULES

from thalweg.errors import PotentialError, SettingsError
from thalweg.evaluation.certify import certify
from thalweg.evaluation.lookups import LOOKUPS
from thalweg.evaluation.specimens import RECIPES, Specimen, fit_head, make_specimen
from thalweg.gradients import AdjointSettings, Implicit, Phantom, Split, Unrolled
from thalweg.gradients.verification import Verdict, verify
from thalweg.potentials import POTENTIALS
from thalweg.potentials.contract import Potential
from thalweg.relaxation import Descent, Path
from thalweg.structures.batch import Structures

CASES: list[tuple[str, dict[str, Any]]] = [
    ("painn", {"channels": 4, "layers": 1}),
    ("equivariant", {"channels": 4, "layers": 1}),
    ("schnet", {"layers": 1}),
    ("stillinger-weber", {}),
    ("fully_connected", {}),
    ("transformer", {"layers": 1}),
    ("transformer", {"layers": 1, "coordinates": "fractional"}),
    ("transformer", {"layers": 1, "distance_bias": "minimum-image", "attention": "plain"}),
    ("transformer", {"layers": 1, "coordinates": "fractional", "distance_bias": "minimum-image"}),
]
ELSEWHERE = {"torch", "metatomic", "second-moment", "rigid-ion", *MODULES}
"""Code of one's own and named surfaces are verified where they are documented, other packages' models in theirs."""


def test_every_kind_has_a_specimen() -> None:
    assert {kind for kind, _ in CASES} == set(POTENTIALS) - ELSEWHERE == {*RECIPES, "stillinger-weber"}


OF_EVERY_KIND = pytest.mark.parametrize(
    ("kind", "settings"), CASES, ids=[f"{kind} {' '.join(map(str, settings.values()))}" for kind, settings in CASES]
)


def assert_certified(potential: Potential, verdicts: list[Verdict]) -> None:
    """Every verdict is good, and the adjoint was solved as the measured asymmetry asks for."""
    assert all(v.passed and v.structures > 0 and v.refused == () for v in verdicts), verdicts
    asymmetry = max(v.asymmetry for v in verdicts if v.asymmetry is not None)
    solvers = {v.solver for v in verdicts if v.solver is not None}
    assert solvers == ({"minres"} if potential.conservative else {"gmres"})
    assert asymmetry < 1e-5 if potential.conservative else asymmetry > 1e-2


@OF_EVERY_KIND
def test_gradients_of_every_kind_meet_central_differences(kind: str, settings: dict[str, Any]) -> None:
    """Steps, minimum and updates from there; the implicit route is what the split does at the minimum."""
    made = make_specimen(kind, settings)
    routes = [Unrolled(), Phantom(updates=2), Split(horizon=1)]
    path = Path(Descent(alpha=0.02), steps=2)
    verdicts = verify(made.potential, made.starts.select([0]), path, routes, directions=1)
    assert [v.point for v in verdicts] == ["guided", "equilibrium", "guided", "equilibrium"]
    assert_certified(made.potential, verdicts)


@pytest.mark.slow
@OF_EVERY_KIND
def test_every_route_of_every_kind_passes(kind: str, settings: dict[str, Any]) -> None:
    made = make_specimen(kind, settings)
    verdicts = certify(made.potential, made.starts)
    assert len(verdicts) == 9
    assert_certified(made.potential, verdicts)


def test_direct_forces_solved_as_symmetric_are_rejected() -> None:
    """The negative control of the choice: MINRES answers wrongly where the Jacobian is not symmetric."""
    made = make_specimen("transformer", {"layers": 1})
    path = Path(Descent(alpha=0.02), steps=2)
    start = made.starts.select([0])

    def verdict(route: Implicit) -> bool:
        return verify(made.potential, start, path, [route], directions=1)[0].passed

    assert not verdict(Implicit(adjoint=AdjointSettings(symmetric_below=1.0, limit=1e3, saddle=1e9)))
    assert verdict(Implicit())


def test_forces_are_linear_in_the_head_and_the_fit_learns() -> None:
    made = make_specimen("painn", {"channels": 4, "layers": 1})
    head = made.potential.get_submodule(RECIPES["painn"].head)

    def forces(scale: float) -> torch.Tensor:
        with torch.no_grad():
            head.weight.mul_(scale)
            found = made.potential(made.starts).forces
            head.weight.div_(scale)
        return found

    torch.testing.assert_close(forces(3.0), 3.0 * forces(1.0), rtol=1e-12, atol=1e-12)
    wanted = forces(2.0)
    assert fit_head(made.potential, RECIPES["painn"].head, made.starts, wanted) < 1e-4
    with pytest.raises(SettingsError, match="no linear map"):
        fit_head(made.potential, "readout", made.starts, wanted)


def test_the_same_words_make_the_same_specimen() -> None:
    def numbers(made: Specimen) -> tuple[list[torch.Tensor], Structures]:
        return [p.detach() for p in made.potential.parameters()], made.starts

    for kind in ("painn", "fully_connected"):
        (first, starts), (again, others) = numbers(make_specimen(kind)), numbers(make_specimen(kind))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert torch.equal(starts.positions, others.positions)
        assert not torch.equal(starts.positions, make_specimen(kind, seed=1).starts.positions)


@pytest.mark.parametrize("kind", sorted(LOOKUPS))
def test_lookups_have_no_gradient_and_are_refused(kind: str) -> None:
    with pytest.raises(SettingsError, match=f"{kind} is a lookup: .* no gradient to verify") as caught:
        make_specimen(kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "complaint"),
    [
        ("torch", {}, "torch stands for code of your own: name it"),
        ("pain", {}, "neither a file nor a kind of potential; did you mean 'painn'"),
        ("stillinger-weber", {"channels": 3}, "takes no settings here, but channels"),
        ("painn", {"species": [14, 52]}, "species is .* allowed is"),
        ("painn", {"chanels": 4}, "did you mean 'channels'"),
    ],
)
def test_other_words_are_refused_in_one_line(kind: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises((SettingsError, PotentialError), match=complaint) as caught:
        make_specimen(kind, settings)
    assert "\n" not in str(caught.value)
