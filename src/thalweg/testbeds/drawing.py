"""What testbeds share in drawing: kinds by weight, starts into pairs on the reference, parents into labelled frames."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from jaxtyping import Float

from thalweg.errors import SettingsError, nearest_known
from thalweg.potentials.contract import Potential
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs
from thalweg.testbeds.testbed import Drawn

BATCH = 100
"""Structures relaxed at once: enough to hide the cost of a call, small enough for the cache."""

FRAMES_PER_PARENT = 5
"""Frames that every parent gives."""

Drawing = Callable[[range], tuple[Structures, tuple[str, ...]]]
"""Gives the structures of some indices, and the name of the parent of each structure."""


def require_weights(kind: str, what: str, weights: Mapping[str, float], known: Collection[str]) -> None:
    """Refuse weights that nothing can be drawn by.

    Args:
        kind: name of the testbed, for messages.
        what: what is drawn, e.g. "defect"; its setting is the plural.
        weights: weight of each name.
        known: names there are.

    Raises:
        SettingsError: an unknown name, a weight below 0 or not finite, or none above 0.
    """
    for name, weight in weights.items():
        if name not in known:
            raise SettingsError(f"{kind} has no {what} {name!r}; {nearest_known(name, known)}")
        if not (weight >= 0 and np.isfinite(weight)):
            raise SettingsError(f"{kind} weight of {name} is {weight}: allowed is 0 or a finite number above")
    if not sum(weights.values()) > 0:
        raise SettingsError(f"{kind} {what}s are {dict(weights)}: at least one weight must be above 0")


def pick(weights: Mapping[str, float], generator: np.random.Generator) -> str:
    """Return a name, drawn by the weights whatever their order."""
    names = sorted(weights)
    share = np.array([weights[name] for name in names], dtype=float)
    return str(generator.choice(names, p=share / share.sum()))


def draw_pairs(
    kind: str,
    reference: Potential,
    path: Path,
    starts: Drawing,
    count: int,
) -> Drawn:
    """Relax starts 0 to `count` − 1 on a reference.

    Args:
        kind: name of the testbed, for messages.
        reference: the surface.
        path: how starts are relaxed on it.
        starts: gives the starts.
        count: how many.

    Raises:
        SettingsError: `count` below 1, or no reference relaxation converged.
    """
    require_count(count)
    parts, lost = [], []
    for first in range(0, count, BATCH):
        batch, parents = starts(range(first, min(first + BATCH, count)))
        at_start = reference(batch)
        end = path.run(reference, batch)
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


def label_frames(reference: Potential, structures: Drawing, count: int, *, stress: bool = False) -> Frames:
    """Return frames 0 to `count` − 1, labelled by the reference.

    Args:
        reference: the surface.
        structures: gives `FRAMES_PER_PARENT` structures of each parent.
        count: how many frames.
        stress: label stresses too.

    Raises:
        SettingsError: `count` below 1.
    """
    require_count(count)
    parts = []
    parents = -(-count // FRAMES_PER_PARENT)
    for first in range(0, parents, BATCH):
        batch, names = structures(range(first, min(first + BATCH, parents)))
        label = reference(batch, stress=stress)
        parts.append(Frames(batch, label.energy, label.forces, names, label.stress))
    return Frames.concatenate(parts).select(range(count))


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
