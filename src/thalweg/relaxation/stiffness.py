"""Stiffness: the largest curvature of each structure as a differentiable function of the potential's parameters.

    s(θ) = wᵀ H_θᵀ u,   H = −∂F/∂X,   ∂s/∂θ = wᵀ (∂H_θ/∂θ)ᵀ u    with u and w held constant

For a conservative potential u = w is the eigenvector of λ_max. That the derivative of an eigenvalue needs none of
its vector is the theorem of Hellmann and Feynman (Feynman 1939): exact where u is the eigenvector, off in first
order of what it lacks. At any u, s is a Rayleigh quotient and never exceeds λ_max, and the gradient is that of this
quotient. X is held constant as well, so the points should not depend on θ: reference minima, not those reached.

For direct forces H is not symmetric, the vectors of its eigenvalues are complex and left and right ones differ. There
s is the largest singular value with its left and right vectors, for which the same theorem holds in real numbers. It
bounds every |λ| from above and equals λ_max where H is symmetric and positive; that a mode turns (|λ|²/Re λ above
|λ|) it does not see, `check_alpha` does. The Frobenius norm that Bai, Koltun and Kolter (2021) estimate with random
vectors needs no eigenvector, but is a mean over all modes: in 3N dimensions it allows one of them √(3N) times as
much as it should, and it is one mode that makes a relaxation oscillate.

Called by the penalty of `tune`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates
from thalweg.relaxation.lanczos import largest_eigenvalue
from thalweg.relaxation.relaxer import dot
from thalweg.relaxation.stability import Curvature, check_effort, start_vectors
from thalweg.structures.batch import Structures


@dataclass(frozen=True, eq=False)
class Stiffness:
    """The stiffest direction of each structure, found at the present parameters."""

    value: Float[Tensor, " structures"]
    """s, eV/Å², without a graph; 0 where nothing moves, NaN where forces are not finite."""
    _curvature: Curvature
    _left: Float[Tensor, "rows 3"]
    _right: Float[Tensor, "rows 3"]

    def differentiable(self) -> Float[Tensor, " structures"]:
        """Return s, eV/Å², differentiable to the parameters; NaN where forces are not finite."""
        return dot(self._curvature.differentiable(self._right), self._left, self._curvature.owner, len(self.value))


def measure_stiffness(
    potential: Potential,
    structures: Structures,
    *,
    coordinates: FreeCoordinates | None = None,
    tolerance: float = 0.02,
    max_products: int = 12,
    seed: int = 0,
) -> Stiffness:
    """Find the stiffest direction of each structure.

    Args:
        potential: conservative, or direct with forces that can be differentiated twice.
        structures: where; near minima.
        coordinates: what moves; atoms in a fixed cell by default.
        tolerance: relative residual at which to stop.
        max_products: most products with the Hessian (with Hᵀ and with H for direct forces).
        seed: root seed of the start vectors; each structure's depends on its id alone.

    Raises:
        SettingsError: a tolerance or number of products outside its range.
        PotentialError: direct forces that cannot be differentiated twice.
    """
    check_effort(tolerance, max_products)
    curvature = Curvature(potential, structures, coordinates)
    owner, n = curvature.owner, len(structures)

    def operator(v: Tensor) -> Tensor:
        return curvature(v) if potential.conservative else _forward(potential, curvature, curvature(v))

    found = largest_eigenvalue(
        operator,
        start_vectors(curvature, structures, seed),
        owner,
        n,
        symmetric=True,
        tolerance=tolerance,
        max_products=max_products,
    )
    u = found.vector if found.vector is not None else torch.zeros_like(curvature.rows)
    product = curvature(u)
    w = u
    if not potential.conservative:  # u belongs to σ² of H Hᵀ; its partner is Hᵀ u
        norm = dot(product, product, owner, n).sqrt()
        w = product / torch.where(norm > 0, norm, 1.0)[owner, None]
    value = torch.where(torch.isfinite(found.value), dot(product, w, owner, n), torch.nan)
    return Stiffness(value, curvature, w, u)


def _forward(potential: Potential, curvature: Curvature, v: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
    """Return H v, as the derivative of vᵀ Hᵀ z by z.

    Raises:
        PotentialError: the forces cannot be differentiated twice.
    """
    z = torch.zeros_like(v).requires_grad_()
    try:
        (product,) = torch.autograd.grad(curvature.differentiable(z), z, grad_outputs=v)
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise PotentialError(
            f"the forces of the {potential.kind} potential cannot be differentiated twice, which the penalty on the "
            "Jacobian needs: build it with potential.attention=plain, or set stability.penalty=0"
        ) from None
    return curvature.movable(product)
