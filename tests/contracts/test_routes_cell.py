"""Every route keeps its contract where the cell moves: derivatives of positions and cell meet central differences.

Every route of `ROUTES` is here once; the checker must reject one that loses the derivative of the strain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from tests.gradients.surfaces import Morse, Twisted

from thalweg.gradients import ROUTES, Implicit, Phantom, Split, Unrolled
from thalweg.gradients.route import Differentiated, Route
from thalweg.gradients.verification import verify
from thalweg.potentials.contract import Potential, Prediction
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import Descent, Path, PositionsAndCell
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

System = tuple[Potential, Structures, Path]

CASES: list[Route] = [Unrolled(horizon=7), Implicit(), Phantom(updates=3), Split(horizon=7)]


def rattled(frame: Atoms, key: str, stretch: float) -> Atoms:
    frame.set_cell(frame.cell.array * stretch, scale_atoms=True)
    stream = numpy_stream(3, "route contract, cell", key)
    frame.set_cell(frame.cell.array + 0.03 * stream.standard_normal((3, 3)), scale_atoms=True)
    frame.positions += 0.04 * stream.standard_normal(frame.positions.shape)
    return frame


def path(alpha: float, **changes) -> Path:
    return Path(Descent(alpha), steps=12, coordinates=PositionsAndCell(**changes))


def silicon() -> System:
    """A batch of two sizes, 4 and 2 atoms."""
    frames = [rattled(bulk("Si") * (2, 1, 1), "four", 1.0), rattled(bulk("Si"), "two", 1.03)]
    return StillingerWeber.from_published("Si"), Structures.from_atoms(frames), path(0.02)


def telluride() -> System:
    """Two species, an atom held, one strain fixed, under pressure."""
    frame = rattled(bulk("CdTe", "zincblende", a=6.48), "CdTe", 0.98)
    frame.set_constraint(FixAtoms([0]))
    moving = path(0.04, components=(True, True, False, True, True, True), pressure=0.01)
    return StillingerWeber.from_published("CdTe-2013"), Structures.from_atoms(frame), moving


class TwistedStress(Twisted):
    """Direct forces and a direct stress: neither is a derivative of its energy."""

    kind: ClassVar[str] = "twisted-stress"

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        given = super().forward(structures, edges=edges, graph=graph)
        inner = self.base(structures, edges=edges, graph=graph, stress=True).stress
        own = (1 + self.twist) * (inner if graph else inner.detach())
        return replace(given, stress=own)


def twisted() -> System:
    frame = rattled(bulk("CdTe", "zincblende", a=6.2), "twisted", 1.0)
    return TwistedStress(Morse(), 0.05), Structures.from_atoms(frame), path(0.04)


def test_every_registered_route_is_under_contract() -> None:
    assert {type(route) for route in CASES} == set(ROUTES.values())


def assert_certified(route: Route, system: System) -> None:
    potential, starts, moving = system
    verdicts = verify(potential, starts, moving, [route], relative=1e-6, directions=1)
    assert verdicts
    for verdict in verdicts:
        assert verdict.refused == ()
        assert verdict.structures == len(starts)
        assert verdict.passed, verdict


@pytest.mark.parametrize("system", [silicon, telluride])
@pytest.mark.parametrize("route", CASES, ids=lambda route: route.kind)
def test_gradients_meet_central_differences(route: Route, system: Callable[[], System]) -> None:
    assert_certified(route, system())


def test_gradients_of_direct_forces_and_stress_meet_central_differences() -> None:
    """The joint Jacobian is not symmetric, so the adjoint is solved by GMRES."""
    potential, starts, moving = twisted()
    assert_certified(Implicit(), (potential, starts, moving))
    result = Implicit().differentiate(potential, starts, moving)
    result.equilibrium.cell.sum().backward()
    assert result.certificates[0].asymmetry > 1e-3


@pytest.mark.parametrize("route", CASES, ids=lambda route: route.kind)
def test_positions_and_cell_are_differentiable(route: Route) -> None:
    potential, starts, moving = silicon()
    result = route.differentiate(potential, starts, replace(moving, fmax=1e-4))
    for reached in (result.guided, result.equilibrium):
        if reached is None:
            continue
        for value in (reached.positions, reached.cell):
            potential.zero_grad(set_to_none=True)
            value.square().sum().backward(retain_graph=True)
            assert any(p.grad is not None and p.grad.any() for p in potential.parameters())
    assert all(c.took_part for c in result.certificates)


@dataclass(frozen=True)
class StrainLost(Split):
    """Broken on purpose: the cell, or what the strain does to the atoms, has no derivative."""

    fault: str = ""

    def differentiate(self, potential: Potential, starts: Structures, path: Path) -> Differentiated:
        result = super().differentiate(potential, starts, path)

        def spoil(structures: Structures) -> Structures:
            if self.fault == "cell":
                return structures.with_cell(structures.cell.detach())
            still = torch.linalg.solve(structures.cell.detach(), structures.cell)
            undone = structures.positions.unsqueeze(1) @ torch.linalg.inv(still)[structures.owner]
            return structures.with_positions(undone.squeeze(1))

        return Differentiated(spoil(result.guided), spoil(result.equilibrium), result.certificates)


@pytest.mark.parametrize("fault", ["cell", "affine part"])
def test_the_checker_rejects_a_route_that_loses_the_strain(fault: str) -> None:
    potential, starts, moving = silicon()
    verdicts = verify(potential, starts, moving, [StrainLost(horizon=7, fault=fault)], directions=1)
    assert [v.passed for v in verdicts] == [False, False]


@dataclass(frozen=True)
class StressLost(PositionsAndCell):
    """Broken on purpose: forces on strain are constants to the graph."""

    def evaluate(
        self,
        potential: Potential,
        structures: Structures,
        rows: torch.Tensor,
        *,
        edges: Edges | None = None,
        graph: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        energy, forces = super().evaluate(potential, structures, rows, edges=edges, graph=graph)
        strain = torch.ones(len(rows), dtype=torch.bool)
        strain[torch.arange(len(structures.owner)) + 3 * structures.owner] = False
        return energy, torch.where(strain[:, None], forces.detach(), forces)


def test_the_checker_rejects_coordinates_that_drop_the_derivative_of_the_strain_forces() -> None:
    potential, starts, moving = silicon()
    broken = replace(moving, coordinates=StressLost())
    verdicts = verify(potential, starts, broken, [Split(horizon=7)], directions=1)
    assert not any(v.passed for v in verdicts)


def test_a_cell_that_runs_away_is_lost_without_spoiling_its_companions() -> None:
    """Strain passes its bound in different numbers of updates; at the last one rows are finite and places are not."""
    crushed, sound = bulk("CdTe", "zincblende", a=6.2), bulk("CdTe", "zincblende", a=6.2)
    crushed.set_cell(crushed.cell.array * 0.5, scale_atoms=True)
    starts = Structures.from_atoms([crushed, rattled(sound, "companion", 1.0)])
    potential, moving = Morse(), path(0.02, scale=1.0)
    lost = []
    for horizon in range(3, 11):
        potential.zero_grad(set_to_none=True)
        result = Unrolled(horizon=horizon).differentiate(potential, starts, moving)
        lost.append(not result.certificates[0].took_part)
        assert result.certificates[1].took_part
        assert result.guidance_counts().tolist() == [not lost[-1], True]
        reached = result.guided.select([1])
        (reached.positions.square().sum() + reached.cell.square().sum()).backward()
        together = potential.depth.grad.clone()
        potential.zero_grad(set_to_none=True)
        alone = Unrolled(horizon=horizon).differentiate(potential, starts.select([1]), moving).guided
        (alone.positions.square().sum() + alone.cell.square().sum()).backward()
        torch.testing.assert_close(together, potential.depth.grad, rtol=1e-9, atol=1e-12)
    assert lost == sorted(lost)
    assert set(lost) == {False, True}


def test_a_structure_differentiates_alike_alone_and_in_company() -> None:
    potential, starts, moving = silicon()
    moving = replace(moving, fmax=1e-10)

    def gradients(batch: Structures, route: Route) -> list[torch.Tensor]:
        potential.zero_grad(set_to_none=True)
        result = route.tightened(1e-10).differentiate(potential, batch, moving)
        index = batch.ids.index("0")
        for reached in (result.guided, result.equilibrium):
            if reached is not None:
                ((reached.positions[reached.owner == index] ** 3).sum() + (reached.cell[index] ** 3).sum()).backward()
        return [p.grad.clone() for p in potential.parameters() if p.grad is not None]

    for route in (Implicit(), Split(horizon=5)):
        for alone, together in zip(gradients(starts.select([0]), route), gradients(starts, route), strict=True):
            torch.testing.assert_close(alone, together, rtol=1e-7, atol=1e-9)
