"""Validation through relaxation: where held-out starts end, and how far that is from right.

The score is the mean robust ΔQ of the positions reached, over all pairs, whatever became of them. A pair is
right by the distance rule if it converged and no matched atom is 0.2 Å or more from the reference minimum; pairs
that did not converge are wrong and stay in the denominator. Called by `tuning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from thalweg.potentials.contract import Potential
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.structures.displacement import delta_q, largest_displacement
from thalweg.structures.pairs import Pairs
from thalweg.training.objective import robust

RIGHT_WITHIN = 0.2
"""Largest matched displacement of a right minimum, Å."""

_BATCH = 32  # pairs relaxed at once


@dataclass(frozen=True)
class Reached:
    """Where one start ended."""

    id: str
    """Name of the pair."""
    outcome: str
    """How its relaxation ended."""
    delta_q: float
    """Distance from the reference minimum, amu^½ Å."""
    robust: float
    """Its share in the score, amu Å²."""
    largest: float
    """Largest matched displacement, Å."""

    @property
    def right(self) -> bool:
        """Whether it converged to the reference minimum, by the distance rule."""
        return self.outcome == Outcome.CONVERGED.label and self.largest < RIGHT_WITHIN


def reach(potential: Potential, pairs: Pairs, path: Path, delta: float) -> list[Reached]:
    """Relax the starts of pairs and compare with their minima.

    Args:
        potential: what gives the forces.
        pairs: starts and reference minima.
        path: how to relax.
        delta: δ of the robust loss, amu^½ Å.
    """
    found: list[Reached] = []
    for first in range(0, len(pairs), _BATCH):
        part = pairs.select(range(first, min(first + _BATCH, len(pairs))))
        end = path.run(potential, part.starts)
        distance = delta_q(end.structures, part.minima)
        columns = (
            part.ids,
            (outcome.label for outcome in end.outcomes),
            distance.tolist(),
            robust(distance, delta).tolist(),
            largest_displacement(end.structures, part.minima).tolist(),
        )
        found.extend(Reached(*row) for row in zip(*columns, strict=True))
    return found


def figures(found: list[Reached]) -> dict[str, Any]:
    """Return what the relaxations of all held-out pairs come to; `score` is better when lower."""
    outcomes = [row.outcome for row in found]
    return {
        "score": fmean(row.robust for row in found),
        "mean_delta_q": fmean(row.delta_q for row in found),
        "median_delta_q": median(row.delta_q for row in found),
        "right": sum(row.right for row in found),
        "total": len(found),
        "outcomes": {label: outcomes.count(label) for label in sorted(set(outcomes))},
    }
