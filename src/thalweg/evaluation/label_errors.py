"""Errors of energies and forces on held-out labelled frames.

Energies are compared per atom, with and without the constant shift that potentials of another zero have. A potential
that gives anything that is not finite has no errors, only a reason: a mean over the rest would flatter it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.potentials.contract import Potential
from thalweg.structures.pairs import Frames

_MILLI = 1000.0
_FRAMES = 32  # evaluated at once


@dataclass(frozen=True)
class LabelErrors:
    """How far a potential is from labels; None, with `reason`, where something it gave is not finite."""

    frames: int
    """Frames compared."""
    atoms: int
    """Atoms in them."""
    energy_rmse: float | None
    """Root mean square over frames of the error of the energy per atom, meV."""
    energy_mae: float | None
    """Mean absolute error of the energy per atom, meV."""
    energy_shift: float | None
    """Mean error of the energy per atom, meV."""
    energy_shifted_rmse: float | None
    """`energy_rmse` after the shift was taken from every frame."""
    energy_shifted_mae: float | None
    """`energy_mae` after the shift was taken from every frame."""
    force_rmse: float | None
    """Root mean square error of the components of forces, meV/Å."""
    force_mae: float | None
    """Mean absolute error of the components of forces, meV/Å."""
    force_cosine: float | None
    """Cosine of the vectors of all force components, predicted and labelled; None where one has no length."""
    reason: str | None = None
    """Why there are no errors."""

    def record(self) -> dict[str, Any]:
        """Return every field as JSON types."""
        return asdict(self)


def measure_label_errors(potential: Potential, frames: Frames) -> LabelErrors:
    """Compare a potential, evaluated in float64, with labels.

    Args:
        potential: what is judged; stays as it is.
        frames: labelled frames that it has not seen.

    Raises:
        SettingsError: there are no frames.
        PotentialError: an element that the potential never saw.
    """
    if len(frames) == 0:
        raise SettingsError("there are no frames to measure errors on: give at least one")
    potential.check(frames.structures)
    exact = copy.deepcopy(potential).double().eval()
    frames = frames.to(next(exact.parameters()).device, torch.float64)
    energies, forces = [], []
    for start in range(0, len(frames), _FRAMES):
        batch = frames.structures.select(range(start, min(start + _FRAMES, len(frames))))
        found = exact(batch)
        energies.append(found.energy.detach())
        forces.append(found.forces.detach())
    return compare_labels(frames, torch.cat(energies), torch.cat(forces))


def compare_labels(frames: Frames, energy: Float[Tensor, " frames"], forces: Float[Tensor, "atoms 3"]) -> LabelErrors:
    """Compare predictions, whatever made them, with labels.

    Args:
        frames: at least one frame, in float64.
        energy: predicted energies, eV.
        forces: predicted forces, eV/Å.
    """
    count, atoms = len(frames), len(frames.structures.numbers)
    bad = ~(torch.isfinite(energy) & torch.isfinite(frames.structures.total(forces)).all(dim=1))
    if bool(bad.any()):
        first = frames.ids[int(bad.nonzero()[0])]
        reason = f"energy or forces are not finite in {int(bad.sum())} of {count} frames, first {first!r}"
        return LabelErrors(count, atoms, None, None, None, None, None, None, None, None, reason)
    per_atom = _MILLI * (energy - frames.energy) / frames.structures.counts
    shifted = per_atom - per_atom.mean()
    error = _MILLI * (forces - frames.forces)
    lengths = float(forces.norm() * frames.forces.norm())
    return LabelErrors(
        frames=count,
        atoms=atoms,
        energy_rmse=_rms(per_atom),
        energy_mae=float(per_atom.abs().mean()),
        energy_shift=float(per_atom.mean()),
        energy_shifted_rmse=_rms(shifted),
        energy_shifted_mae=float(shifted.abs().mean()),
        force_rmse=_rms(error),
        force_mae=float(error.abs().mean()),
        force_cosine=float((forces * frames.forces).sum()) / lengths if lengths > 0 else None,
    )


def _rms(values: Float[Tensor, "..."]) -> float:
    return float(values.square().mean().sqrt())
