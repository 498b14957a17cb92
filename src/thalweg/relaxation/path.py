"""`Path`: all of what one relaxation does, as a value: so many updates, then a finisher down to fmax.

    X_0 → G_θ → … → G_θ → X_T → finisher → X*,  F_θ(X*) below fmax

A basin is defined for a potential, an update and its step size together, so the path is what training,
evaluation and records share. It is deterministic. Structures that converge during the updates stop there. Where
the cell moves, strain is measured from the start in both phases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.relaxation.loop import Relaxation, relax
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.relaxer import Relaxer
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures
from thalweg.units import FORCE_TOLERANCE


@dataclass(frozen=True)
class Path:
    """So many updates, then a finisher."""

    update: Descent
    """The update G_θ."""
    steps: int = 75
    """T, the number of updates; 0 leaves everything to the finisher."""
    finish: Relaxer = field(default_factory=LBFGS)
    """What takes what the updates left above fmax to the minimum."""
    fmax: float = FORCE_TOLERANCE
    """Largest force that counts as relaxed, eV/Å."""
    max_steps: int = 400
    """Most moves of the finisher."""
    max_displacement: float = 20.0
    """A row that moves farther than this in either phase (Å) has exploded."""
    min_distance: float = 0.3
    """Atoms closer than this (Å) are too close."""
    coordinates: FreeCoordinates = field(default_factory=Positions)
    """What moves; atoms in a fixed cell by default."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingsError(f"path steps is {self.steps}: allowed is 0 or more updates, e.g. 75")
        if not 0 < self.fmax < float("inf"):
            raise SettingsError(f"path fmax is {self.fmax}: allowed is a force above 0 eV/Å, e.g. 0.005")
        if self.max_steps < 0:
            raise SettingsError(f"path max_steps is {self.max_steps}: allowed is 0 or more moves, e.g. 400")
        if not self.max_displacement > 0:
            raise SettingsError(
                f"path max_displacement is {self.max_displacement}: allowed is a length above 0 Å, e.g. 20"
            )
        if not self.min_distance >= 0:
            raise SettingsError(
                f"path min_distance is {self.min_distance}: allowed is 0 Å (no check) or more, e.g. 0.3"
            )

    def run(
        self,
        potential: Potential,
        structures: Structures,
        *,
        skip: int = 0,
        reference: Structures | None = None,
        keep_trace: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Relaxation:
        """Walk the path, or what is left of it.

        Args:
            potential: what gives the forces.
            structures: the starts, or where they stand after `skip` updates.
            skip: updates already made elsewhere; the result counts only the moves made here.
            reference: what strain is measured from, where the cell moves: the starts of the whole path; None where
                `structures` are those.
            keep_trace: record the batch after each move.
            progress: called with (step, structures still moving) before each move.

        Raises:
            SettingsError: `skip` beyond the path's updates, or a limit the potential cannot serve.
        """
        if not 0 <= skip <= self.steps:
            raise SettingsError(f"skip is {skip}: allowed is 0 to {self.steps}, the updates of this path")

        def walk(
            start: Structures,
            base: Structures | None,
            relaxer: Relaxer,
            moves: int,
            report: Callable[[int, int], None] | None,
        ) -> Relaxation:
            return relax(
                potential,
                start,
                relaxer,
                fmax=self.fmax,
                max_steps=moves,
                coordinates=self.coordinates,
                reference=base,
                max_displacement=self.max_displacement,
                min_distance=self.min_distance,
                keep_trace=keep_trace,
                progress=report,
            )

        updates = self.steps - skip
        if updates == 0:
            return walk(structures, reference, self.finish, self.max_steps, progress)
        first = walk(structures, reference, self.update, updates, progress)
        left = [k for k, outcome in enumerate(first.outcomes) if outcome is Outcome.OUT_OF_STEPS]
        if not left:
            return first
        shifted = None if progress is None else lambda step, moving: progress(step + updates, moving)
        base = (structures if reference is None else reference).select(left)
        second = walk(first.structures.select(left), base, self.finish, self.max_steps, shifted)
        return _joined(first, second, torch.tensor(left, device=structures.device))


def _joined(first: Relaxation, second: Relaxation, left: Int[Tensor, " left"]) -> Relaxation:
    """Return the first relaxation with what became of the structures `left` in the second."""
    outcomes = list(first.outcomes)
    for k, outcome in zip(left.tolist(), second.outcomes, strict=True):
        outcomes[k] = outcome
    trace = None
    if first.trace is not None and second.trace is not None:
        later = second.trace[1:]  # its start is the end of the first
        trace = (*first.trace, *(placed_into(first.structures, part, left) for part in later))
    return Relaxation(
        structures=placed_into(first.structures, second.structures, left),
        outcomes=tuple(outcomes),
        steps=first.steps.index_add(0, left, second.steps),
        fmax=first.fmax.index_copy(0, left, second.fmax),
        energy=first.energy.index_copy(0, left, second.energy),
        trace=trace,
    )


def placed_into(whole: Structures, part: Structures, index: Int[Tensor, " part"]) -> Structures:
    """Return `whole` with positions and cells of the structures `index` taken from `part`; differentiable."""
    return replace(
        whole,
        positions=whole.positions.index_copy(0, whole.atoms_of(index), part.positions),
        cell=whole.cell.index_copy(0, index, part.cell),
    )
