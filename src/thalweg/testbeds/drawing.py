"""How a testbed turns starts into pairs: relax them on its reference, batch by batch, and tell which were lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from thalweg.errors import SettingsError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Pairs
from thalweg.testbeds.settling import Settling
from thalweg.testbeds.testbed import Drawn

BATCH = 100
"""Structures relaxed at once: enough to hide the cost of a call, small enough for the cache."""


def draw_pairs(
    kind: str,
    reference: Potential,
    settling: Settling,
    starts: Callable[[range], tuple[Structures, tuple[str, ...]]],
    count: int,
) -> Drawn:
    """Relax starts 0 to `count` − 1 on a reference.

    Args:
        kind: name of the testbed, for messages.
        reference: the surface.
        settling: how starts are relaxed on it.
        starts: gives the starts of some indices and the name of the parent of each.
        count: how many.

    Raises:
        SettingsError: `count` below 1, or no reference relaxation converged.
    """
    require_count(count)
    parts, lost = [], []
    for first in range(0, count, BATCH):
        batch, parents = starts(range(first, min(first + BATCH, count)))
        at_start = reference(batch)
        end = settling.run(reference, batch)
        converged = [k for k, outcome in enumerate(end.outcomes) if outcome is Outcome.CONVERGED]
        lost += [(batch.ids[k], o) for k, o in enumerate(end.outcomes) if o is not Outcome.CONVERGED]
        if converged:
            pairs = Pairs(batch, end.structures, parents, at_start.energy, end.energy, at_start.forces)
            parts.append(pairs.select(converged))
    if not parts:
        raise SettingsError(
            f"none of {count} {kind} references converged: raise max_steps or fmax of settling, or lower its alpha"
        )
    return Drawn(Pairs.concatenate(parts), tuple(lost))


def shaken(
    positions: Float[np.ndarray, "atoms 3"],
    free: Float[np.ndarray, "atoms 3"],
    deviation: float,
    generator: np.random.Generator,
) -> Float[np.ndarray, "atoms 3"]:
    """Return positions after a normal rattle.

    Args:
        positions: before it, Å.
        free: 1 where a component is rattled, 0 where it stays; deviates are drawn for all.
        deviation: standard deviation of each Cartesian component, Å.
        generator: what draws.
    """
    moved: np.ndarray = positions + deviation * free * generator.standard_normal(positions.shape)
    return moved


def require_count(count: int) -> None:
    """Refuse to draw nothing.

    Raises:
        SettingsError: `count` below 1.
    """
    if count < 1:
        raise SettingsError(f"{count} structures were asked for: allowed is 1 or more")
