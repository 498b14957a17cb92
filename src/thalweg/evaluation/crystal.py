"""Lattice constant, cohesive energy and elastic constants of a cubic crystal, in float64.

    C_ij = (σ_i(+δ) − σ_i(−δ)) / 2δ,      stress σ after the atoms were relaxed in a cell strained by ±δ

The crystal is relaxed with its cell first, so σ is zero at zero strain and the derivative of the Cauchy stress is
the elastic constant (Wallace, Thermodynamics of Crystals, 1972, chapter 2). C11 and C12 come from the strain
xx, C44 from the engineering strain yz = 2 ε_yz. Whatever a potential does, there is an answer: figures that do not
exist are None and `reason` says why.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError, SettingsError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.cell import PositionsAndCell
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.relaxation.loop import Relaxation, relax
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.batch import Structures
from thalweg.units import GPA_PER_EV_PER_A3

STRAIN = 1e-3
"""δ: with it Stillinger–Weber silicon comes out within 1e-5 of the limit δ → 0."""

_FMAX = 1e-6  # eV/Å; on the rows of the strain about 1e-5 GPa in a cell of eight atoms
_MAX_STEPS = 500
_CUBIC = 1e-3  # relative deviation of h hᵀ from a² 1 at which a cell is no longer cubic
_FARTHEST = 0.5  # Å that an atom may move while a strained cell relaxes: farther is another crystal


@dataclass(frozen=True)
class CrystalProperties:
    """What a potential makes of a perfect cubic crystal; None, with `reason`, where there is no such figure."""

    lattice_constant: float | None
    """Edge of the relaxed cubic cell, Å."""
    cohesive_energy: float | None
    """Minus the energy per atom of the relaxed crystal, eV, counted from the potential's zero: that of its labels,
    isolated atoms for the built-in surfaces. No isolated atom is evaluated, since fitted potentials never saw one."""
    c11: float | None
    """C11, GPa."""
    c12: float | None
    """C12, GPa."""
    c44: float | None
    """C44 with atoms relaxed in the strained cell, GPa."""
    c44_unrelaxed: float | None
    """C44 with atoms that follow the strain alone, GPa."""
    reason: str | None = None
    """Why figures are missing."""

    def record(self) -> dict[str, Any]:
        """Return every field as JSON types."""
        return asdict(self)


def measure_crystal(potential: Potential, crystal: Structures, *, strain: float = STRAIN) -> CrystalProperties:
    """Relax a perfect crystal with its cell and strain it.

    Args:
        potential: what is measured, in float64; stays as it is.
        crystal: one cubic cell with its axes along x, y and z, such as a testbed's `crystal()`.
        strain: δ, between 1e-5 and 0.02.

    Raises:
        SettingsError: a strain outside its range, or a cell that is not one cubic periodic cell along the axes.
        PotentialError: an element that the potential never saw.
    """
    if not 1e-5 <= strain <= 0.02:
        raise SettingsError(f"strain is {strain}: allowed is 1e-5 to 0.02, e.g. {STRAIN}")
    _check(crystal)
    potential.check(crystal)
    exact = copy.deepcopy(potential).double().eval()
    start = crystal.to(next(exact.parameters()).device, torch.float64)
    try:
        return _measured(exact, start, strain)
    except PotentialError as error:  # no stress: a cell cannot be strained
        return _missing(str(error))


def _measured(potential: Potential, start: Structures, strain: float) -> CrystalProperties:
    ends = _relaxed(potential, start, cell=True)
    outcome = ends.outcomes[0]
    if outcome is not Outcome.CONVERGED:
        return _missing(f"the crystal did not relax: {outcome.label.replace('_', ' ')}")
    crystal = ends.structures
    square = crystal.cell[0] @ crystal.cell[0].T
    edge = float(torch.linalg.det(crystal.cell[0]).abs()) ** (1 / 3)
    unit = torch.eye(3, dtype=square.dtype, device=square.device)
    skew = float((square / edge**2 - unit).abs().max())
    if not skew < _CUBIC:
        return _missing(f"the relaxed cell is not cubic: lengths and angles deviate by {skew:.2g}")
    found = CrystalProperties(edge, -float(ends.energy[0]) / int(crystal.counts[0]), None, None, None, None)
    constants = _elastic(potential, crystal, strain)
    if isinstance(constants, str):
        return replace(found, reason=constants)
    c11, c12, c44, unrelaxed = constants
    if not (c11 > abs(c12) and c11 + 2 * c12 > 0 and c44 > 0):  # Born's conditions for a cubic crystal
        return replace(found, reason=f"the crystal is unstable: C11 {c11:.1f}, C12 {c12:.1f}, C44 {c44:.1f} GPa")
    return replace(found, c11=c11, c12=c12, c44=c44, c44_unrelaxed=unrelaxed)


def _elastic(potential: Potential, crystal: Structures, strain: float) -> tuple[float, float, float, float] | str:
    """Return C11, C12, C44 and C44 without relaxation, GPa, or why there are none."""
    strained = _strained(crystal, strain)
    ends = _relaxed(potential, strained, cell=False)
    for outcome in ends.outcomes:
        if outcome is not Outcome.CONVERGED:
            return f"the strained crystal did not relax: {outcome.label.replace('_', ' ')}"
    moved = float((ends.structures.positions - strained.positions).norm(dim=1).max())
    if moved > _FARTHEST:
        return f"the strained crystal is unstable: an atom moved by {moved:.2f} Å"
    xx, yz = (_slope(_stress(potential, ends.structures), k, strain) for k in (0, 1))
    clamped = _slope(_stress(potential, strained), 1, strain)
    constants = (float(xx[0, 0]), float(0.5 * (xx[1, 1] + xx[2, 2])), float(yz[1, 2]), float(clamped[1, 2]))
    if not all(math.isfinite(c) for c in constants):
        return "the stress of the strained crystal is not finite"
    return constants


def _strained(crystal: Structures, strain: float) -> Structures:
    """Return the crystal strained by +xx, −xx, +yz and −yz; the latter are engineering strains 2 ε_yz."""
    parts = []
    for sign in (1.0, -1.0):
        for name in ("xx", "yz"):
            stretch = torch.eye(3, dtype=crystal.dtype, device=crystal.device)
            if name == "xx":
                stretch[0, 0] += sign * strain
            else:
                stretch[1, 2] = stretch[2, 1] = 0.5 * sign * strain
            parts.append(crystal.with_positions(crystal.positions @ stretch).with_cell(crystal.cell @ stretch))
    return Structures.concatenate(parts)


def _slope(stress: Float[Tensor, "four 3 3"], which: int, strain: float) -> Float[Tensor, "3 3"]:
    """Return dσ/dδ in GPa of the strain xx (0) or yz (1)."""
    return GPA_PER_EV_PER_A3 * (stress[which] - stress[which + 2]) / (2 * strain)


def _stress(potential: Potential, structures: Structures) -> Float[Tensor, "structures 3 3"]:
    stress = potential(structures, stress=True).stress
    if stress is None:
        raise PotentialError(f"the {potential.kind} potential gives no stress, so it has no elastic constants")
    found: Tensor = stress.detach()
    return found


def _relaxed(potential: Potential, structures: Structures, *, cell: bool) -> Relaxation:
    coordinates = PositionsAndCell() if cell else None
    return relax(potential, structures, LBFGS(), fmax=_FMAX, max_steps=_MAX_STEPS, coordinates=coordinates)


def _missing(reason: str) -> CrystalProperties:
    return CrystalProperties(None, None, None, None, None, None, reason)


def _check(crystal: Structures) -> None:
    if len(crystal) != 1:
        raise SettingsError(f"{len(crystal)} crystals were given: allowed is one cubic cell")
    cell = crystal.cell[0]
    edge = cell.diagonal().mean()
    off = float((cell - edge * torch.eye(3, dtype=cell.dtype, device=cell.device)).abs().max())
    if not (bool(crystal.pbc.all()) and float(edge) > 0 and off < _CUBIC * float(edge)):
        raise SettingsError(
            f"crystal {crystal.ids[0]!r} has the cell {cell.tolist()}: allowed is a periodic cubic cell with its axes "
            "along x, y and z"
        )
