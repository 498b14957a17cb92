"""FIRE and L-BFGS against ASE on the same surface: every step, the same minima, the number of force calls."""

from __future__ import annotations

from collections.abc import Callable

import ase.optimize
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.relaxation.surfaces import Morse, PotentialCalculator, rattled_argon, vacancy_in_silicon

from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import FIRE, LBFGS, Outcome, Relaxer, relax
from thalweg.structures.batch import Structures

STEPS = 50
Reference = Callable[[Atoms], ase.optimize.optimize.Optimizer]


def ase_fire(atoms: Atoms) -> ase.optimize.FIRE:
    return ase.optimize.FIRE(atoms, logfile=None)


def ase_lbfgs(atoms: Atoms) -> ase.optimize.LBFGS:
    return ase.optimize.LBFGS(atoms, logfile=None)


def ase_short_lbfgs(atoms: Atoms) -> ase.optimize.LBFGS:
    return ase.optimize.LBFGS(atoms, logfile=None, memory=4, alpha=40.0, damping=0.8, maxstep=0.1)


def ase_positions(potential: Potential, start: Atoms, reference: Reference) -> np.ndarray:
    """Return the positions at the start and after each of `STEPS` steps of ASE."""
    atoms = start.copy()
    atoms.calc = PotentialCalculator(potential)
    return np.array([atoms.positions.copy() for _ in reference(atoms).irun(fmax=1e-12, steps=STEPS)])


def largest_deviation(
    potential: Potential, starts: list[Atoms], relaxer: Relaxer, reference: Reference
) -> tuple[float, int]:
    """Compare a batch, step for step, with ASE one by one.

    Returns the largest difference of a coordinate (Å) and the smallest number of steps compared.
    """
    batch = Structures.from_atoms(starts)
    end = relax(potential, batch, relaxer, fmax=1e-12, max_steps=STEPS, keep_trace=True)
    assert end.trace is not None
    worst = 0.0
    for k, start in enumerate(starts):
        made = int(end.steps[k]) + 1
        mine = np.array([s.select([k]).positions.numpy() for s in end.trace[:made]])
        theirs = ase_positions(potential, start, reference)
        worst = max(worst, float(np.abs(mine - theirs[:made]).max()))
    return worst, int(end.steps.min())


def crystals() -> list[Atoms]:
    return [rattled_argon(1, 0.3, 1), rattled_argon(2, 0.1, 2, vacancy=True), rattled_argon(2, 0.15, 3)]


def silicon() -> list[Atoms]:
    big = bulk("Si", cubic=True) * (2, 1, 1)
    big.rattle(0.2, seed=5)
    return [vacancy_in_silicon(0.15, 1, repeat=1), big]


@pytest.mark.parametrize(
    ("relaxer", "reference"),
    [
        (FIRE(), ase_fire),
        (LBFGS.as_in_ase(), ase_lbfgs),
        (LBFGS(memory=4, alpha=40.0, damping=0.8, maxstep=0.1, scaled=False), ase_short_lbfgs),
    ],
    ids=["fire", "lbfgs", "short lbfgs"],
)
@pytest.mark.parametrize("surface", ["morse", "silicon"])
def test_every_step_is_that_of_ase(relaxer: Relaxer, reference: Reference, surface: str) -> None:
    potential = Morse() if surface == "morse" else StillingerWeber.from_published("Si")
    starts = crystals() if surface == "morse" else silicon()
    deviation, compared = largest_deviation(potential, starts, relaxer, reference)
    assert compared > 40
    assert deviation < 1e-10


@pytest.mark.parametrize(
    ("relaxer", "reference"),
    [(FIRE(fdec=0.45), ase_fire), (FIRE(nmin=6), ase_fire), (LBFGS(), ase_lbfgs)],
    ids=["fdec", "nmin", "scaled"],
)
def test_the_comparison_notices_another_method(relaxer: Relaxer, reference: Reference) -> None:
    assert largest_deviation(Morse(), crystals(), relaxer, reference)[0] > 1e-4


@pytest.mark.parametrize(
    ("relaxer", "reference", "budget"),
    [(FIRE(), ase_fire, 1.0), (LBFGS.as_in_ase(), ase_lbfgs, 1.2), (LBFGS(), ase_lbfgs, 1.0)],
    ids=["fire", "lbfgs as in ase", "lbfgs"],
)
def test_the_minima_are_those_of_ase_for_no_more_force_calls(
    relaxer: Relaxer, reference: Reference, budget: float
) -> None:
    potential = StillingerWeber.from_published("Si")
    starts = [vacancy_in_silicon(0.08 + 0.01 * k, k, repeat=1) for k in range(6)]
    for k in range(6):
        starts.append(bulk("Si", cubic=True) * (2, 1, 1))
        starts[-1].rattle(0.1 + 0.01 * k, seed=k)
    counting = [PotentialCalculator(potential) for _ in starts]
    energies = []
    for start, calculator in zip(starts, counting, strict=True):
        atoms = start.copy()
        atoms.calc = calculator
        assert reference(atoms).run(fmax=1e-4, steps=600)
        energies.append(atoms.get_potential_energy())
    end = relax(potential, Structures.from_atoms(starts), relaxer, fmax=1e-4, max_steps=600)
    assert end.outcomes == (Outcome.CONVERGED,) * len(starts)
    torch.testing.assert_close(end.energy, torch.tensor(energies, dtype=torch.float64), rtol=0, atol=1e-6)
    calls = int((end.steps + 1).sum())
    assert calls <= budget * sum(c.count for c in counting)
