"""Radial functions of a distance d between two atoms, all smooth to the third derivative everywhere.

    softened length   d = sqrt(|r|² + ε²)                                   finite derivatives at r = 0
    cutoff            f(d) = (1−x)⁴ Σ_{k<p} C(k+3, 3) xᵏ,   x = d / r_c     f(0) = 1, f ≡ 0 from r_c on
    Bessel basis      b_n(d) = sqrt(2/r_c) sin(n π d / r_c) / d             n = 1 … count
    Gaussian basis    b_n(d) = exp(−(d − μ_n)² / 2σ²)                       μ_n even on [0, r_c]

The cutoff has a fourfold zero at r_c, so energy, forces and two further derivatives go to zero there; the
polynomial in wide use has a threefold zero, whose third derivative jumps. Near the atom 1 − f ~ dᵖ. Every
function takes any shape; a basis puts its own axis first, so that the long axis of pairs is contiguous.
Called by message-passing potentials through `RadialBasis`, which is basis times cutoff.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known

SOFTENING = 1e-3
"""ε of the softened length, Å: shifts a distance of 2 Å by 2.5e-7 Å."""


def softened_length(
    vectors: Float[Tensor, "components *pairs"], softening: float = SOFTENING
) -> Float[Tensor, " *pairs"]:
    """Return sqrt(|r|² + ε²) over the first axis (Å): a length whose derivatives are finite at r = 0.

    Args:
        vectors: Cartesian components along the first axis, Å.
        softening: ε, Å, above 0.
    """
    return (vectors.square().sum(dim=0) + softening**2).sqrt()


def smooth_cutoff(
    distance: Float[Tensor, " *pairs"], cutoff: float, order: int = 6
) -> Float[Tensor, " *pairs"]:
    """Return f(d) = (1−x)⁴ Σ_{k<p} C(k+3, 3) xᵏ with x = d/r_c: 1 at d = 0, zero from the cutoff on.

    The sum is the Taylor series of (1−x)⁻⁴ broken off after p terms, so 1 − f starts with xᵖ: value and
    derivatives below the p-th are those of 1 at d = 0, and value and first three derivatives are 0 at r_c.

    Args:
        distance: d, Å, at or above 0.
        cutoff: r_c, Å, above 0.
        order: p, at least 1; the larger, the longer f stays near 1.
    """
    x = distance / cutoff
    series = torch.full_like(x, math.comb(order + 2, 3))
    for k in range(order - 2, -1, -1):
        series = series * x + math.comb(k + 3, 3)
    # beyond the cutoff the clamp gives exact zeros, and zeros in every derivative
    return (1.0 - x).clamp(min=0.0).square().square() * series


def bessel_basis(
    distance: Float[Tensor, " *pairs"], cutoff: float, count: int
) -> Float[Tensor, "count *pairs"]:
    """Return b_n(d) = sqrt(2/r_c) sin(nπd/r_c)/d for n = 1 … count: orthonormal on the ball of radius r_c.

    Args:
        distance: d, Å, above 0: take `softened_length`, which never is 0.
        cutoff: r_c, Å.
        count: number of functions.

    Source: Gasteiger, Groß, Günnemann 2020 (DimeNet), eq. 7.
    """
    n = torch.arange(1, count + 1, device=distance.device, dtype=distance.dtype)
    wave = (n * (math.pi / cutoff)).view(-1, *[1] * distance.dim())
    return torch.sin(wave * distance) * (math.sqrt(2.0 / cutoff) / distance)


def gaussian_basis(
    distance: Float[Tensor, " *pairs"], cutoff: float, count: int
) -> Float[Tensor, "count *pairs"]:
    """Return exp(−(d−μ_n)²/2σ²), μ_n even on [0, r_c], σ their spacing (r_c for a single function).

    Args:
        distance: d, Å.
        cutoff: r_c, Å.
        count: number of functions.

    Source: Schütt et al. 2017 (SchNet), with σ tied to the spacing.
    """
    centres = torch.linspace(0.0, cutoff, count, device=distance.device, dtype=distance.dtype)
    width = cutoff / max(count - 1, 1)
    return torch.exp(-0.5 * ((distance - centres.view(-1, *[1] * distance.dim())) / width).square())


_BASES = {"bessel": bessel_basis, "gaussian": gaussian_basis}


class RadialBasis(nn.Module):
    """Basis times cutoff, R_n(d) = N b_n(d) f(d), without parameters.

    N is such that Σ_n R_n² is 1 in the mean over the ball of radius r_c: a filter with unit normal weights
    then has unit variance over evenly spread neighbours, whatever the basis, cutoff and number of functions.
    """

    def __init__(self, kind: str, cutoff: float, count: int, order: int = 6) -> None:
        """Choose the functions.

        Args:
            kind: "bessel" or "gaussian".
            cutoff: r_c, Å, above 0.
            count: number of functions, at least 1.
            order: p of `smooth_cutoff`, at least 1.

        Raises:
            PotentialError: an unknown kind or a value outside its range.
        """
        super().__init__()
        if kind not in _BASES:
            raise PotentialError(f"radial basis {kind!r} is not known: {nearest_known(kind, _BASES)}")
        for name, value, least in (("count", count, 1), ("order", order, 1)):
            if value < least:
                raise PotentialError(f"radial basis: {name} is {value}, allowed is {least} or more")
        if not 0.0 < cutoff < math.inf:
            raise PotentialError(f"radial basis: cutoff is {cutoff} Å, allowed is a length above 0, e.g. 5.0")
        self.kind, self.cutoff, self.count, self.order = kind, cutoff, count, order
        self.norm = 1.0
        x = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000.0  # midpoints, weight 3x² of the shell
        square = self.forward(cutoff * x).square().sum(dim=0)
        self.norm = float((3.0 * x.square() * square).mean().rsqrt())

    def forward(self, distance: Float[Tensor, " *pairs"]) -> Float[Tensor, "count *pairs"]:
        """Return R_n(d) for distances above 0 (Å)."""
        basis = _BASES[self.kind](distance, self.cutoff, self.count)
        return basis * (self.norm * smooth_cutoff(distance, self.cutoff, self.order))
