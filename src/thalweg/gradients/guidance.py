"""Guidance: X_K, differentiable through the first K updates, with exploding structures kept out of the graph.

One structure that becomes non-finite would poison the gradient of its whole batch (0 · NaN is NaN), so the
updates are then differentiated again without it and it is returned where it was lost, without a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.gradients.unroll import Step, unroll
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures


def guide(
    potential: Potential,
    starts: Structures,
    path: Path,
    horizon: int,
    *,
    recompute: bool,
    states: int | None = None,
    reference: Structures | None = None,
) -> tuple[Structures, Bool[Tensor, " structures"]]:
    """Return X_K and which structures stayed finite.

    Args:
        potential: gives the forces.
        starts: X_0.
        path: whose updates are differentiated.
        horizon: K, number of updates.
        recompute: keep only states between forward and backward.
        states: most states kept by recomputation; None keeps all K.
        reference: what strain is measured from, where the cell moves; the starts by default.
    """
    coordinates = path.coordinates
    begin = coordinates.rows(starts.detach(), reference)
    starts = (starts if reference is None else reference).detach()
    keep = _Keep(recompute, states)
    rows = _advance(potential, starts, begin, path, horizon, keep)
    owner = coordinates.owner(starts)
    placed = coordinates.place(starts, rows)
    healthy = starts.total((~torch.isfinite(placed.positions.detach()).all(dim=1)).to(rows.dtype)) == 0
    if bool(healthy.all()):
        return placed, healthy
    final = rows.detach().clone()
    if bool(healthy.any()):
        again = starts.select(healthy.nonzero().squeeze(1))
        sound = _advance(potential, again, begin[healthy[owner]], path, horizon, keep)
        final = final.index_copy(0, healthy[owner].nonzero().squeeze(1), sound)
    return coordinates.place(starts, final), healthy


@dataclass(frozen=True)
class _Keep:
    """What is kept between forward and backward."""

    recompute: bool
    states: int | None


def _advance(
    potential: Potential,
    reference: Structures,
    rows: Float[Tensor, "rows 3"],
    path: Path,
    horizon: int,
    keep: _Keep,
) -> Float[Tensor, "rows 3"]:
    step = Step(potential, reference, path.update, path.coordinates)
    return unroll(step, rows, horizon, recompute=keep.recompute, states=keep.states)


def check_horizon(horizon: int | None, path: Path) -> int:
    """Return the number of differentiated updates; None means all of the path's.

    Raises:
        SettingsError: the horizon is below 1 or above the number of updates of the path.
    """
    count = path.steps if horizon is None else horizon
    if not 1 <= count <= path.steps:
        raise SettingsError(
            f"route.horizon is {count}, but the relaxation makes {path.steps} updates: "
            f"allowed is 1 to {path.steps}; lower the horizon or raise relaxation.steps"
        )
    return count


def check_states(recompute: bool, states: int | None) -> None:
    """Refuse a number of kept states that cannot be.

    Raises:
        SettingsError: fewer than one state, or any without recomputation.
    """
    if states is None:
        return
    if states < 1:
        raise SettingsError(f"route.states is {states}: allowed is 1 or more kept states, or null for all")
    if not recompute:
        raise SettingsError(
            f"route.states is {states}, but route.recompute is false, which keeps every graph: "
            "set recompute to true or leave states out"
        )
