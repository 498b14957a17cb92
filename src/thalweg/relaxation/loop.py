"""The one relaxation loop: batched, without a graph, each structure stopping on its own.

Finished structures leave the batch and cost nothing more. `fmax` is checked before each step, as in ASE, so a
structure that starts relaxed takes no step; `steps` counts moves and `steps + 1` evaluations were made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.relaxer import Relaxer
from thalweg.structures.batch import Structures


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The end of a batch of relaxations."""

    structures: Structures
    """Where each ended."""
    outcomes: tuple[Outcome, ...]
    """How each ended; CONVERGED was evaluated at the returned positions."""
    steps: Int[Tensor, " structures"]
    """Moves made."""
    fmax: Float[Tensor, " structures"]
    """Largest force at the returned coordinates, eV/Å."""
    energy: Float[Tensor, " structures"]
    """Energy at the returned coordinates, eV."""
    trace: tuple[Structures, ...] | None = None
    """The whole batch after each move, the start first; only when asked for."""


def relax(
    potential: Potential,
    structures: Structures,
    relaxer: Relaxer,
    *,
    fmax: float,
    max_steps: int,
    coordinates: FreeCoordinates | None = None,
    max_displacement: float = 20.0,
    min_distance: float = 0.3,
    keep_trace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Relaxation:
    """Relax every structure until its largest force is below `fmax`.

    Args:
        potential: what gives the forces.
        structures: the starts.
        relaxer: how to step.
        fmax: largest norm of a force that counts as relaxed, eV/Å.
        max_steps: most moves of a structure.
        coordinates: what moves; atoms in a fixed cell by default.
        max_displacement: a row that moved farther than this from its start (Å) has exploded.
        min_distance: atoms closer than this (Å) are too close.
        keep_trace: record the batch after each move.
        progress: called with (step, structures still moving) before each move.
    """
    raise NotImplementedError
