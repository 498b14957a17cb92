"""Quenches of X_t on the reference surface, each made once however many questions are asked about it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.evaluation.basins import Quench, in_double
from thalweg.evaluation.regime.walks import Walks, in_chunks
from thalweg.potentials.contract import Potential
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import largest_displacement


class Quenches:
    """Where X_t of each walk ends on the reference surface."""

    def __init__(self, walks: Walks, reference: Potential, rule: Quench, *, max_atoms: int = 4096) -> None:
        self.walks, self.rule, self.max_atoms = walks, rule, max_atoms
        self.reference = in_double(reference)
        self._made: dict[tuple[int, int], Structures | None] = {}  # None where the quench did not converge

    def end_at(self, targets: Structures, where: Sequence[tuple[int, int]]) -> list[bool]:
        """Return of each (structure, update) whether its quench converges to that structure's target.

        Args:
            targets: one minimum of the reference a walk, in their order.
            where: (structure, update) pairs.
        """
        self._make([place for place in dict.fromkeys(where) if place not in self._made])
        ended = [(place, end) for place in where if (end := self._made[place]) is not None]
        if not ended:
            return [False] * len(where)
        distances = apart(
            Structures.concatenate([end for _, end in ended]), targets.select([place[0] for place, _ in ended])
        )
        near = {place: bool(d < self.rule.threshold) for (place, _), d in zip(ended, distances, strict=True)}
        return [near.get(place, False) for place in where]

    def _make(self, where: Sequence[tuple[int, int]]) -> None:
        if not where:
            return
        states = self.walks.places(where)
        for chunk in in_chunks(states, self.max_atoms):
            quenched = self.rule.quench(self.reference, states.select(chunk))
            for place, (k, outcome) in zip(chunk, enumerate(quenched.outcomes), strict=True):
                there = outcome is Outcome.CONVERGED
                self._made[where[place]] = quenched.structures.select([k]) if there else None


def apart(ours: Structures, theirs: Structures) -> Float[Tensor, " structures"]:
    """Return the largest matched displacement of each pair of structures, Å, on the host in float64."""
    return largest_displacement(ours.to("cpu", torch.float64), theirs.to("cpu", torch.float64))
