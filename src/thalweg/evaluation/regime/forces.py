"""Forces right: how far the potential's forces point where the reference's do, along the potential's own path.

For each structure, over all atoms a and the updates t of a grid along X_0 … X_T,

    cosine = Σ F·F_ref / sqrt(Σ |F|² Σ |F_ref|²),      relative error = sqrt(Σ |F − F_ref|² / Σ |F_ref|²)

Sums run over the whole path before anything is divided, so each point weighs by the size of its forces and the end of
the path, where both are near zero and their directions mean little, hardly counts. The cosine is judged: a descent
along forces of the right direction and the wrong size takes the same way at another pace. The error stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.evaluation.basins import home
from thalweg.evaluation.regime.coordinate import Measurement
from thalweg.evaluation.regime.intervals import mean_figure
from thalweg.evaluation.regime.walks import Walks
from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Pairs


@dataclass(frozen=True)
class ForceRow:
    """What became of one structure's forces."""

    cosine: float
    """Between the two over the whole path."""
    relative: float
    """Relative error."""
    absolute: float
    """Mean absolute error of a component, eV/Å."""


def forces_along(walks: Walks, reference: Potential, grid: Sequence[int]) -> list[ForceRow | None]:
    """Compare forces at the updates of the grid; None for a structure without a finite force of both.

    Args:
        walks: the potential's relaxations.
        reference: the reference surface in float64.
        grid: updates t; those after a structure ended are left out.
    """
    sums = _Sums.of(walks.at(0))
    for update in grid:
        states = walks.at(update)
        moving = (walks.ends.steps >= update).to("cpu")
        ours = walks.potential(states).forces
        theirs = reference(states.to(home(reference, states)[0], torch.float64)).forces
        sums.add(states, ours, theirs, moving)
    return sums.rows()


def forces_at_starts(potential: Potential, pairs: Pairs) -> list[ForceRow | None]:
    """Compare forces at the starts alone, with those that came with the pairs; None where they are unknown."""
    sums = _Sums.of(pairs.starts)
    if pairs.forces_start is not None:
        states = pairs.starts.to(*home(potential, pairs.starts))
        ours = potential(states).forces
        sums.add(pairs.starts, ours, pairs.forces_start, torch.ones(len(pairs), dtype=torch.bool))
    return sums.rows()


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over atoms and updates, a row a structure; on the host in float64, added to in place."""

    ours: Float[Tensor, " structures"]
    theirs: Float[Tensor, " structures"]
    product: Float[Tensor, " structures"]
    error: Float[Tensor, " structures"]
    absolute: Float[Tensor, " structures"]
    components: Float[Tensor, " structures"]

    @staticmethod
    def of(structures: Structures) -> _Sums:
        return _Sums(*(torch.zeros(len(structures), dtype=torch.float64) for _ in range(6)))

    def add(self, states: Structures, ours: Tensor, theirs: Tensor, counted: Tensor) -> None:
        host = states.to("cpu", torch.float64)
        f, g = (torch.where(host.free, v.detach().to("cpu", torch.float64), 0.0) for v in (ours, theirs))
        pairs = (
            (self.ours, f.square()),
            (self.theirs, g.square()),
            (self.product, f * g),
            (self.error, (f - g).square()),
            (self.absolute, (f - g).abs()),
            (self.components, host.free.double()),
        )
        terms = torch.stack([host.total(value.sum(dim=1)) for _, value in pairs])
        usable = counted & torch.isfinite(terms).all(dim=0)
        for (target, _), term in zip(pairs, terms, strict=True):
            target += torch.where(usable, term, 0.0)

    def rows(self) -> list[ForceRow | None]:
        norm = (self.ours * self.theirs).sqrt()
        return [
            None
            if not float(norm[k]) > 0
            else ForceRow(
                cosine=float(self.product[k] / norm[k]),
                relative=float((self.error[k] / self.theirs[k]).sqrt()),
                absolute=float(self.absolute[k] / self.components[k]),
            )
            for k in range(len(norm))
        ]


def measure_forces(rows: Sequence[ForceRow | None], where: str, *, seed: int) -> Measurement:
    """Return the coordinate from the rows of all structures.

    Args:
        rows: one a structure.
        where: at which points, in words.
        seed: root of the bootstrap.
    """
    found = [row for row in rows if row is not None]
    if not found:
        return Measurement(
            None,
            "",
            "it needs forces of the reference: give --reference, or pairs with a forces column on their starts",
        )
    lost = f"; {len(rows) - len(found)} without forces to compare" if len(found) < len(rows) else ""
    beside = (
        mean_figure("relative force error", [row.relative for row in found], "", seed=seed),
        mean_figure("mean absolute force error", [row.absolute for row in found], "eV/Å", seed=seed),
    )
    return Measurement(
        mean_figure("cosine between the forces", [row.cosine for row in found], "", seed=seed),
        f"mean over structures of the cosine between the potential's and the reference's forces {where}, "
        f"points weighted by the size of their forces{lost}",
        beside=tuple(figure for figure in beside if figure is not None),
    )
