"""The largest eigenvalue of an operator on row fields, for every structure of a batch at once.

An orthonormal Krylov basis grows by one product a round for all structures together (Lanczos 1950; Arnoldi 1951
where the operator is not symmetric), with scalars of each structure, until every top eigenvalue has settled. For a
symmetric operator the estimate never exceeds the true one. Called by `stability` and `stiffness`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.relaxation.relaxer import combine, dot, dots


@dataclass(frozen=True, eq=False)
class Largest:
    """Estimates per structure."""

    value: Float[Tensor, " structures"]
    """Largest eigenvalue (|λ|²/Re λ of a complex one), unit of the operator; NaN where products are not finite."""
    residual: Float[Tensor, " structures"]
    """How far an eigenvalue may be from it."""
    vector: Float[Tensor, "rows 3"] | None
    """Its unit vector in each structure, for a symmetric operator; zero where nothing moves or nothing is finite."""


def largest_eigenvalue(
    operator: Callable[[Float[Tensor, "rows 3"]], Float[Tensor, "rows 3"]],
    start: Float[Tensor, "rows 3"],
    owner: Int[Tensor, " rows"],
    structures: int,
    *,
    symmetric: bool,
    tolerance: float,
    max_products: int,
) -> Largest:
    """Grow an orthonormal Krylov basis of all structures at once until every top eigenvalue has settled.

    Args:
        operator: linear, acts within each structure.
        start: a unit vector in each structure, or zero.
        owner: index of the structure of each row.
        structures: number of structures.
        symmetric: whether the operator is.
        tolerance: relative residual at which a structure has settled.
        max_products: most products.
    """
    n, v = structures, start
    basis = v.unsqueeze(1)  # rows j 3
    small = torch.zeros((n, max_products + 1, max_products), dtype=torch.float64, device=v.device)
    for j in range(max_products):
        w = operator(v)
        scale = dot(w, w, owner, n).sqrt()
        for _ in range(2):  # once leaves rounding behind, twice is enough
            part = dots(basis, w, owner, n)
            w = w - combine(basis, part, owner)
            small[:, : j + 1, j] += part
        beta = dot(w, w, owner, n).sqrt()
        exhausted = beta <= 10 * torch.finfo(v.dtype).eps * scale
        small[:, j + 1, j] = torch.where(exhausted, 0.0, beta)
        # where the space was exhausted before, pad with a Rayleigh quotient: it never exceeds the largest
        small[:, j, j] = torch.where(dot(v, v, owner, n) == 0, small[:, 0, 0], small[:, j, j])
        value, residual, weights = _top(small[:, : j + 2, : j + 1], symmetric=symmetric)
        if j + 1 == max_products or not bool((residual > tolerance * value.abs()).any()):
            break
        v = torch.where(exhausted[owner, None], 0.0, w / beta[owner, None])
        basis = torch.cat([basis, v.unsqueeze(1)], 1)
    vector = None
    if weights is not None:
        vector = combine(basis, weights.to(start.dtype), owner)
        norm = dot(vector, vector, owner, n).sqrt()  # a padded space has vectors of zero in its basis
        sound = (norm > 0) & torch.isfinite(value).to(norm.device)
        vector = torch.where(sound[owner, None], vector / torch.where(sound, norm, 1.0)[owner, None], 0.0)
    return Largest(value.to(start.dtype), residual.to(start.dtype), vector)


def _top(
    small: Float[Tensor, "structures more j"], *, symmetric: bool
) -> tuple[Float[Tensor, " structures"], Float[Tensor, " structures"], Float[Tensor, "structures j"] | None]:
    """Return the largest eigenvalue of each Hessenberg matrix, its residual (or NaN) and vector."""
    finite = torch.isfinite(small).all(dim=2).all(dim=1)
    square = torch.where(finite[:, None, None], small[:, :-1], 0.0)
    weights = None
    if symmetric:
        values, vectors = torch.linalg.eigh(0.5 * (square + square.transpose(1, 2)))
        value, residual = values[:, -1], small[:, -1, -1] * vectors[:, -1, -1].abs()
        weights = vectors[:, :, -1]
    else:
        values, vectors = torch.linalg.eig(square)
        every = small[:, -1, -1, None] * vectors[:, -1].abs()
        # b²/a counts only where the sign of a is settled; |∂(a + b²/a)| = 1 + b²/a² carries the residual over
        turn = torch.where(values.real > every, values.imag / values.real, 0.0)
        felt = values.real * (1 + turn.square())
        top = felt.argmax(dim=1, keepdim=True)
        value = felt.gather(1, top).squeeze(1)
        residual = (every * (1 + turn.square())).gather(1, top).squeeze(1)
    nan = torch.full_like(value, math.nan)
    return torch.where(finite, value, nan), torch.where(finite, residual, nan), weights
