"""Guidance: X_K, differentiable through the first K updates, with exploding structures kept out of the graph.

One structure that becomes non-finite would poison the gradient of its whole batch (0 · NaN is NaN), so the
updates are then differentiated again without it and it is returned where it was lost, without a graph.
"""

from __future__ import annotations

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
    reference: Structures | None = None,
) -> tuple[Structures, Bool[Tensor, " structures"]]:
    """Return X_K and which structures stayed finite.

    Args:
        potential: gives the forces.
        starts: X_0.
        path: whose updates are differentiated.
        horizon: K, number of updates.
        recompute: keep only the states between forward and backward.
        reference: what strain is measured from, where the cell moves; the starts by default.
    """
    coordinates = path.coordinates
    begin = coordinates.rows(starts.detach(), reference)
    starts = (starts if reference is None else reference).detach()
    rows = _advance(potential, starts, begin, path, horizon, recompute)
    owner = coordinates.owner(starts)
    placed = coordinates.place(starts, rows)
    healthy = starts.total((~torch.isfinite(placed.positions.detach()).all(dim=1)).to(rows.dtype)) == 0
    if bool(healthy.all()):
        return placed, healthy
    final = rows.detach().clone()
    if bool(healthy.any()):
        again = starts.select(healthy.nonzero().squeeze(1))
        sound = _advance(potential, again, begin[healthy[owner]], path, horizon, recompute)
        final = final.index_copy(0, healthy[owner].nonzero().squeeze(1), sound)
    return coordinates.place(starts, final), healthy


def _advance(
    potential: Potential,
    reference: Structures,
    rows: Float[Tensor, "rows 3"],
    path: Path,
    horizon: int,
    recompute: bool,
) -> Float[Tensor, "rows 3"]:
    step = Step(potential, reference, path.update, path.coordinates)
    return unroll(step, rows, horizon, recompute=recompute)


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
