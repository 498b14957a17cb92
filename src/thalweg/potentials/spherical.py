"""Algebra of spherical tensors in the basis of e3nn: coupling coefficients, the paths between orders, harmonics.

A tensor of all orders up to l_max lies along one axis of (l_max + 1)² components, order after order: those of order l
begin at l². A path (l1, l2, l3) couples two orders to a third and keeps the parity (−1)^l. Coefficients are e3nn's
`wigner_3j`, kept in float64 and rounded once. Called by the equivariant potential.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thalweg.errors import PotentialError


def coupling(l1: int, l2: int, l3: int) -> Float[Tensor, "m1 m2 m3"]:
    """Return sqrt(2 l3 + 1) C^{l1 l2 l3} in float64, which couples unit variance to unit variance.

    Args:
        l1: order of the first factor.
        l2: order of the second factor.
        l3: order of the result, from |l1 − l2| to l1 + l2.

    Raises:
        PotentialError: e3nn cannot be imported, or is one before 0.5, whose coefficients have other signs.
    """
    try:
        found = version("e3nn")
        if [int(part) for part in found.split(".")[:2]] < [0, 5]:
            raise PotentialError(
                f"the equivariant potential cannot use e3nn {found}: before 0.5 coefficients have other signs: pip "
                "install 'thalweg[equivariant]' into another environment, or take another kind, e.g. painn"
            )
        from e3nn.o3 import wigner_3j
    except ImportError as error:  # PackageNotFoundError is one
        raise PotentialError(
            f"the equivariant potential needs the package e3nn ({error}): pip install 'thalweg[equivariant]', or "
            "take another kind, e.g. painn"
        ) from None
    coefficients: Tensor = wigner_3j(l1, l2, l3, dtype=torch.float64, device=torch.device("cpu"))
    return math.sqrt(2 * l3 + 1) * coefficients


class Constant(nn.Module):
    """A tensor that is rounded anew from float64 whenever the floating type changes; in no model file."""

    value: Tensor

    def __init__(self, exact: Float[Tensor, "..."]) -> None:
        super().__init__()
        self.exact = exact.numpy()  # an array, so that .to(dtype=...) leaves it alone
        self.register_buffer("value", exact.to(torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.value.copy_(torch.from_numpy(self.exact))
        return self

    def forward(self) -> Tensor:
        """Return the tensor in the floating type of the moment."""
        return self.value


class Path(NamedTuple):
    """Orders that are coupled, (l1, l2) → l3."""

    first: int
    """l1."""
    second: int
    """l2."""
    result: int
    """l3."""

    def coefficients(self) -> Float[Tensor, "m1 m2 m3"]:
        """Return its coupling coefficients in float64."""
        return coupling(self.first, self.second, self.result)


def paths(first: int, second: int, wanted: int, *, symmetric: bool = False) -> list[Path]:
    """Return all paths that keep the parity, in the order in which model files number them.

    Args:
        first: highest l1.
        second: highest l2.
        wanted: highest l3.
        symmetric: both factors are the same, so that l1 ≤ l2 is enough.
    """
    return [
        Path(l1, l2, l3)
        for l1 in range(first + 1)
        for l2 in range(l1 if symmetric else 0, second + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, wanted) + 1, 2)
    ]


def shares(chosen: list[Path]) -> list[float]:
    """Return for each path 1/√n, n the number of paths to the same order: sums over them keep the variance."""
    results = [path.result for path in chosen]
    return [1.0 / math.sqrt(results.count(order)) for order in results]


def block(order: int) -> slice:
    """Return where the components of an order lie."""
    return slice(order**2, (order + 1) ** 2)


def orders(highest: int) -> Int[Tensor, " components"]:
    """Return the order of each component."""
    return torch.cat([torch.full((2 * order + 1,), order) for order in range(highest + 1)])


class Harmonics(nn.Module):
    """Spherical harmonics of all orders, |Y^l|² = 2l + 1."""

    def __init__(self, l_max: int) -> None:
        """Prepare the coefficients for orders up to `l_max`."""
        super().__init__()
        self.lifts = nn.ModuleList()
        pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        probe = math.sqrt(3) * pole
        for order in range(2, l_max + 1):  # Y^l is what u ⊗ Y^{l−1} couples to, up to its length
            lift = coupling(1, order - 1, order).flatten(0, 1).T
            raw = lift @ torch.outer(pole, probe).flatten()
            factor = math.sqrt(2 * order + 1) / raw.norm()
            self.lifts.append(Constant((factor * lift).contiguous()))
            probe = factor * raw

    def forward(self, u: Float[Tensor, "3 *pairs"]) -> Float[Tensor, "components *pairs"]:
        """Return Y^0 … Y^l_max of unit vectors; of shorter ones |u|^l times that."""
        found = [torch.ones_like(u[:1]), math.sqrt(3) * u]
        for lift in self.lifts:
            products = u.unsqueeze(1) * found[-1]
            found.append((lift() @ products.flatten(0, 1).flatten(1)).unflatten(1, u.shape[1:]))
        return torch.cat(found)
