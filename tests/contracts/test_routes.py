"""Every route keeps the contract: its gradients meet central differences, and the checker rejects broken ones.

One line in `CASES` joins a route; a test fails if a registered route is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from ase.build import bulk
from tests.gradients.surfaces import Morse, Twisted
from tests.potentials.pinned import fitted, sites

from thalweg.evaluation.certify import small_crystals
from thalweg.evaluation.specimens import make_specimen
from thalweg.gradients import ROUTES, AdjointSettings, Implicit, Phantom, Split, Unrolled
from thalweg.gradients.guidance import guide
from thalweg.gradients.route import Differentiated, Route
from thalweg.gradients.verification import verify
from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

CASES: list[Route] = [
    Unrolled(recompute=False),
    Unrolled(),
    Unrolled(horizon=7),
    Implicit(),
    Phantom(updates=3),
    Split(horizon=7, recompute=False),
    Split(horizon=7),
    Split(horizon=7, shortcut=True),
]


def silicon() -> tuple[Potential, Structures, Path]:
    """A vacancy and a perfect crystal in 8-atom cells, rattled: small, periodic."""
    perfect = bulk("Si", cubic=True)
    vacancy = perfect.copy()
    del vacancy[3]
    frames = [vacancy, perfect]
    for k, frame in enumerate(frames):
        frame.positions += 0.05 * numpy_stream(3, "route contract", k).standard_normal(frame.positions.shape)
    return StillingerWeber.from_published("Si"), Structures.from_atoms(frames), Path(Descent(alpha=0.02), steps=12)


def telluride() -> tuple[Potential, Structures, Path]:
    """A vacancy in zinc-blende CdTe with one atom held: two species, no null translation."""
    frame = bulk("CdTe", "zincblende", a=6.48, cubic=True)
    del frame[2]
    frame.positions += 0.05 * numpy_stream(3, "route contract", "CdTe").standard_normal(frame.positions.shape)
    structures = Structures.from_atoms(frame)
    free = structures.free.clone()
    free[0] = False
    held = replace(structures, free=free)
    return StillingerWeber.from_published("CdTe-2013"), held, Path(Descent(alpha=0.04), steps=12)


def cluster() -> tuple[Potential, Structures, Path]:
    """An isolated molecule of two species: rotations are null modes too."""
    frame = bulk("CdTe", "zincblende", a=6.2, cubic=True)[[0, 1, 2, 3, 4]]
    frame.pbc = False
    frame.positions += 0.05 * numpy_stream(3, "route contract", "cluster").standard_normal(frame.positions.shape)
    return Morse(), Structures.from_atoms(frame), Path(Descent(alpha=0.04), steps=12)


def twisted() -> tuple[Potential, Structures, Path]:
    """Direct forces with an asymmetric Jacobian: GMRES on the transposed system."""
    frame = bulk("CdTe", "zincblende", a=6.2, cubic=True)
    frame.positions += 0.05 * numpy_stream(3, "route contract", "twisted").standard_normal(frame.positions.shape)
    return Twisted(Morse(), 0.05), Structures.from_atoms(frame), Path(Descent(alpha=0.04), steps=12)


def cell_blind() -> tuple[Potential, Structures, Path]:
    """A network with direct forces, asymmetry 0.13 and no null modes at all."""
    return fitted(), sites(1, 0.05, "start"), Path(Descent(alpha=0.02), steps=12)


@cache
def _equivariant() -> Potential:
    return make_specimen("equivariant", {"channels": 3, "layers": 1}).potential


def equivariant() -> tuple[Potential, Structures, Path]:
    """Harmonics and products up to l = 2 in a primitive cell, strained so that its minimum depends on them."""
    frame = bulk("Si")
    frame.set_cell(frame.cell.array @ [[0.97, 0.03, 0.0], [0.03, 0.95, 0.0], [0.0, 0.02, 0.98]], scale_atoms=True)
    frame.positions[1] += [0.05, 0.0, -0.03]
    return _equivariant(), Structures.from_atoms(frame), Path(Descent(alpha=0.02), steps=12)


def test_every_registered_route_is_under_contract():
    assert {type(route) for route in CASES} == set(ROUTES.values())


@pytest.mark.parametrize("system", [silicon, telluride, cluster, twisted, cell_blind, equivariant])
@pytest.mark.parametrize("route", CASES, ids=repr)
def test_gradients_meet_central_differences(route: Route, system: Callable[[], tuple[Potential, Structures, Path]]):
    potential, starts, path = system()
    verdicts = verify(potential, starts, path, [route], relative=1e-6, directions=1)
    assert {v.point for v in verdicts} == set(route.claims(potential, starts, path))
    for verdict in verdicts:
        assert verdict.refused == ()
        assert verdict.structures == len(starts)
        assert verdict.passed, verdict


@pytest.mark.parametrize("route", CASES, ids=repr)
def test_a_structure_differentiates_alike_alone_and_in_company(route: Route):
    potential, starts, path = silicon()
    tight = replace(path, fmax=1e-10)
    route = route.tightened(1e-10)

    def gradients(batch: Structures) -> list[torch.Tensor]:
        potential.zero_grad(set_to_none=True)
        result = route.differentiate(potential, batch, tight)
        reached = [s for s in (result.guided, result.equilibrium) if s is not None]
        index = batch.ids.index("0")
        rows = batch.owner == index
        sum((s.positions[rows] ** 3).sum() for s in reached).backward()
        return [p.grad for p in potential.parameters() if p.grad is not None]

    for alone, together in zip(gradients(starts.select([0])), gradients(starts), strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-7, atol=1e-9)


def test_certificates_say_what_each_route_did():
    potential, starts, path = silicon()
    for route in CASES:
        result = route.differentiate(potential, starts, replace(path, fmax=1e-4))
        reached = result.guided if result.equilibrium is None else result.equilibrium
        reached.positions.square().sum().backward()
        assert [c.id for c in result.certificates] == list(starts.ids)
        assert all(c.took_part and c.reason is None for c in result.certificates)
        for c in result.certificates:
            solved = isinstance(route, Implicit | Split)
            assert (c.adjoint_residual is not None) == solved
            if solved:
                assert c.adjoint_residual <= 2e-4
                assert c.lowest_curvature > 0
                assert c.adjoint_iterations > 1
            assert c.record()["outcome"] in (None, "converged")


# Negative controls: a route with a dropped term, a wrong sign, a detached step must be rejected by the same checker.


@dataclass(frozen=True)
class Broken(Split):
    """A split whose gradient is spoilt in one way."""

    fault: str = ""

    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        if self.fault == "detached step":
            shorter, _ = guide(potential, starts, path, 1, recompute=False)
            rest, _ = guide(potential, shorter.detach(), path, self.horizon - 1, recompute=False)
            equilibrium = super().differentiate(potential, starts, path).equilibrium
            return Differentiated(rest, equilibrium, super().differentiate(potential, starts, path).certificates)
        result = super().differentiate(potential, starts, path)

        def spoil(structures: Structures) -> Structures:
            x = structures.positions
            if self.fault == "wrong sign":
                return structures.with_positions(2 * x.detach() - x)
            if self.fault == "too long":
                return structures.with_positions(x.detach() + (1 + 1e-5) * (x - x.detach()))
            kept = torch.arange(len(x)) > 0  # the first atom's share is lost
            return structures.with_positions(torch.where(kept[:, None], x, x.detach()))

        return Differentiated(spoil(result.guided), spoil(result.equilibrium), result.certificates)


@pytest.mark.parametrize("fault", ["dropped term", "wrong sign", "detached step"])
def test_the_checker_rejects_a_broken_route(fault: str):
    potential, starts, path = silicon()
    verdicts = verify(potential, starts, path, [Broken(horizon=7, fault=fault)], directions=1)
    by_point = {v.point: v for v in verdicts}
    assert not by_point["guided"].passed
    assert by_point["equilibrium"].passed == (fault == "detached step")


def test_a_soft_surface_is_certified_and_a_gradient_too_long_by_a_hundred_thousandth_is_not():
    entry = {"elements": ["Si", "Si", "Si"], "epsilon": 2.1683e-3, "sigma": 2.0951, "a": 1.8, "lambda_": 21.0}
    entry |= {"gamma": 1.2, "cos_theta0": -1 / 3, "A": 7.05, "B": 0.602, "p": 4, "q": 0}
    soft = StillingerWeber.from_settings({"entries": [entry]})
    starts, path = small_crystals(soft, 1, 0), Path(Descent(alpha=0.03), steps=6)
    right, long = (Implicit(), Broken(horizon=2, fault="too long"))
    assert all(v.passed for v in verify(soft, starts, path, [right]))
    at = {v.point: v for v in verify(soft, starts, path, [long], directions=1)}
    assert not at["equilibrium"].passed
    assert at["equilibrium"].worst == pytest.approx(1e-5, rel=0.1)


def test_an_adjoint_solved_loosely_is_rejected():
    potential, starts, path = silicon()

    class Loose(Implicit):
        def tightened(self, tolerance: float) -> Implicit:
            return self

    loose = Loose(adjoint=AdjointSettings(tolerance=0.3, limit=0.5))
    assert not verify(potential, starts, path, [loose], directions=1)[0].passed


def test_verify_says_so_where_a_route_refuses_every_structure():
    potential, starts, path = twisted()
    nowhere = Twisted(potential.base, 40.0)  # turns so fast that no update comes to rest
    verdicts = verify(nowhere, starts, path, [Phantom(updates=3)], directions=1)
    assert [v.structures for v in verdicts] == [0]
    assert not verdicts[0].passed
    assert len(verdicts[0].refused) == 1


def test_a_shortcut_relaxes_from_the_horizon_with_the_finisher():
    potential, starts, path = silicon()
    short = Split(horizon=7, shortcut=True).differentiate(potential, starts, path)
    whole = Split(horizon=7).differentiate(potential, starts, path)
    expected = replace(path, steps=7).run(potential, starts)
    assert torch.equal(short.equilibrium.positions, expected.structures.positions)
    assert not torch.equal(short.equilibrium.positions, whole.equilibrium.positions)
    assert torch.equal(short.guided.positions, whole.guided.positions)


def test_unconverged_structures_are_refused_and_counted():
    potential, starts, path = silicon()
    short = replace(path, steps=7, max_steps=1, fmax=1e-8)
    result = Split(horizon=7).differentiate(potential, starts, short)
    assert [c.reason for c in result.certificates] == ["out_of_steps", "out_of_steps"]
    assert not result.equilibrium_counts().any()
    assert result.guidance_counts().all()
    result.equilibrium.positions.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in potential.parameters())
