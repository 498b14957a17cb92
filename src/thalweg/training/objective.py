"""The objective: how far X_K and X* are from the reference minima, bounded against runaways.

    L = (1/B) Σ_s [ w_g ρ(ΔQ(X_K)) + w_e ρ(ΔQ(X*)) ],      ρ(Q) = ½ δ² log(1 + Q²/δ²)

ρ is ½ Q² near zero (the Cauchy loss; Black and Anandan 1996, section 3). For Q ≫ δ its gradient is
δ² d(log Q)/dθ: a trajectory that runs away has a displacement and a sensitivity that grow together, and only
their ratio is left, so it cannot own the batch. A structure that takes no part adds nothing and still counts in
B. Called by `tuning`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.gradients import Differentiated
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q
from thalweg.training.settings import ObjectiveSettings


def robust(distance: Float[Tensor, "*any"], delta: float) -> Float[Tensor, "*any"]:
    """Return ρ(Q) = ½ δ² log(1 + Q²/δ²), amu Å², for distances Q and δ in amu^½ Å."""
    return 0.5 * delta**2 * torch.log1p((distance / delta).square())


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of a batch (or of one process's share of it) and what it is made of."""

    total: Float[Tensor, ""]
    """L, amu Å²; differentiable if any structure takes part."""
    guidance: float | None
    """Share of X_K in L without its weight; None if the route has no X_K."""
    equilibrium: float | None
    """Share of X* in L without its weight; None if the route has no X*."""
    guided: int
    """Structures whose X_K entered."""
    relaxed: int
    """Structures whose X* entered; those that backward refuses leave later."""


def objective(differentiated: Differentiated, minima: Structures, settings: ObjectiveSettings, *, batch: int) -> Loss:
    """Return the loss of what a route reached.

    Args:
        differentiated: X_K and/or X* of the structures.
        minima: their reference minima, in the same order.
        settings: weights and δ.
        batch: B, the size of the whole batch, whoever takes part.
    """
    guidance, guided = _part(differentiated.guided, differentiated.guidance_counts(), minima, settings.delta, batch)
    equilibrium, relaxed = _part(
        differentiated.equilibrium, differentiated.equilibrium_counts(), minima, settings.delta, batch
    )
    total = settings.guidance_weight * guidance + settings.equilibrium_weight * equilibrium
    return Loss(
        total=total,
        guidance=None if differentiated.guided is None else float(guidance.detach()),
        equilibrium=None if differentiated.equilibrium is None else float(equilibrium.detach()),
        guided=guided,
        relaxed=relaxed,
    )


def _part(
    reached: Structures | None,
    counts: Bool[Tensor, " structures"],
    minima: Structures,
    delta: float,
    batch: int,
) -> tuple[Float[Tensor, ""], int]:
    """Return Σ ρ(ΔQ) / B over the structures that count, and their number."""
    inside = int(counts.sum())
    if reached is None or inside == 0:
        return minima.positions.new_zeros(()), 0
    chosen = counts.nonzero().squeeze(1)
    # left out by selection, not by a factor of zero: 0 · NaN is NaN
    distance = delta_q(reached.select(chosen), minima.select(chosen))
    return robust(distance, delta).sum() / batch, inside
