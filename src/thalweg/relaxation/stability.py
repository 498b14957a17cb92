"""Is a step size stable: the largest curvature of a potential and what α it allows.

Near a minimum one update multiplies an error along an eigenvector of the Hessian H by 1 − α λ, so the
relaxation oscillates without end once α λ_max reaches 2. λ_max is found by the Lanczos method on products
with H: power iteration with the whole Krylov space kept. It needs fewer products (12 against 40 for 0.1 % at
minima of silicon defects) and finds the largest λ, not |λ|, of an indefinite H without a shift. For direct
forces H = −∂F/∂X is not symmetric and its λ are complex. |1 − α λ| < 1 then asks for α < 2 Re λ/|λ|²: a mode that
mostly turns spirals outwards at a small α. So the same space (Arnoldi) gives the largest |λ|²/Re λ, which takes
the place of λ_max and equals it where λ is real.

`Curvature`, the product with H, is what a penalty on the Jacobian is to be built on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError, SettingsError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.relaxer import combine, dot, dots
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures


class Curvature:
    """The linear operator v → Hᵀ v, H = −∂F/∂X over free coordinates, at one point of each structure.

    H is the Hessian of a conservative potential and symmetric; of direct forces it is neither.
    """

    def __init__(
        self,
        potential: Potential,
        structures: Structures,
        coordinates: FreeCoordinates | None = None,
        reference: Structures | None = None,
    ) -> None:
        """Evaluate the forces once, with a graph that every product reuses.

        Args:
            potential: what gives the forces.
            structures: the points.
            coordinates: what moves; atoms in a fixed cell by default.
            reference: what strain is measured from, where the cell moves; the points themselves by default.
        """
        coordinates = Positions() if coordinates is None else coordinates
        structures = structures.detach()
        self._coordinates = coordinates
        self.reference = structures if reference is None else reference.detach()
        self.rows = coordinates.rows(structures, reference).detach()
        self.owner = coordinates.owner(structures)
        self.free = coordinates.free(structures)
        edges = potential.edges(coordinates.place(self.reference, self.rows))
        self._leaf = self.rows.clone().requires_grad_()
        with torch.enable_grad():
            _, self._forces = coordinates.evaluate(potential, self.reference, self._leaf, edges=edges, graph=True)

    @property
    def forces(self) -> Float[Tensor, "rows 3"]:
        """The forces at the points, eV/Å, without a graph; zero on fixed components."""
        return torch.where(self.free, self._forces.detach(), 0.0)

    def __call__(self, v: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return Hᵀ v of every structure, zero on fixed components; eV/Å² times the unit of `v`."""
        (product,) = torch.autograd.grad(
            self._forces, self._leaf, grad_outputs=-v, retain_graph=True, materialize_grads=True
        )
        return torch.where(self.free, product, 0.0)

    def movable(self, v: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return the part of `v` along which something can move."""
        return self._coordinates.mask(self.reference, v)

    def to_parameters(self, v: Float[Tensor, "rows 3"], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Return vᵀ ∂F/∂θ for each parameter, None where there is no influence; frees the graph."""
        return list(torch.autograd.grad(self._forces, parameters, grad_outputs=v, allow_unused=True))


@dataclass(frozen=True, eq=False)
class _Largest:
    """Estimates per structure: the largest curvature and the residual of its eigenvector, eV/Å²."""

    value: Float[Tensor, " structures"]
    residual: Float[Tensor, " structures"]
    products: int


def largest_curvature(
    potential: Potential,
    structures: Structures,
    *,
    coordinates: FreeCoordinates | None = None,
    tolerance: float = 1e-3,
    max_products: int = 60,
    seed: int = 0,
) -> Float[Tensor, " structures"]:
    """Return λ_max of the Hessian over free coordinates, eV/Å², for each structure.

    Stops when ‖H u − λ u‖ ≤ tolerance · |λ| in every structure: an eigenvalue of a symmetric H then lies
    within that distance. At `max_products` it returns the best estimate so far, which for a symmetric H never
    exceeds λ_max. 0 for a structure without free coordinates; NaN where the forces are not finite.

    Args:
        potential: conservative, or direct (then the largest |λ|²/Re λ, to be used alike).
        structures: where; near a minimum, for a judgement of step sizes.
        coordinates: what moves; atoms in a fixed cell by default.
        tolerance: relative residual at which to stop.
        max_products: most products with the Hessian.
        seed: root seed of the start vectors; each structure's depends on its id alone.

    Raises:
        SettingsError: a tolerance or number of products outside its range.
    """
    return _largest(potential, structures, coordinates, tolerance, max_products, seed).value


@dataclass(frozen=True)
class Stability:
    """The verdict on a step size for a potential, over a batch of structures."""

    curvature: float
    """Largest λ_max of the batch, eV/Å²; NaN if forces are not finite somewhere."""
    product: float
    """α λ_max."""
    stable: bool
    """Whether α λ_max < 2, the error of λ_max included."""
    warning: str
    """Empty when stable; else one line that says which α would be."""


def check_alpha(
    potential: Potential,
    structures: Structures,
    alpha: float,
    *,
    coordinates: FreeCoordinates | None = None,
    tolerance: float = 1e-3,
    max_products: int = 60,
    seed: int = 0,
) -> Stability:
    """Judge a step size at the given structures, best (near) minima: rattled starts are far stiffer.

    Args:
        potential: the potential to relax on.
        structures: where to look.
        alpha: step size of the update, Å²/eV.
        coordinates: what moves; atoms in a fixed cell by default.
        tolerance: see `largest_curvature`.
        max_products: see `largest_curvature`.
        seed: see `largest_curvature`.

    Raises:
        SettingsError: alpha, tolerance or number of products outside its range.
    """
    if not alpha > 0:
        raise SettingsError(f"alpha is {alpha}: allowed is a step size above 0 Å²/eV, e.g. 0.03")
    found = _largest(potential, structures, coordinates, tolerance, max_products, seed)
    worst = int(torch.nan_to_num(found.value, nan=math.inf).argmax())
    curvature = float(found.value[worst])
    upper = curvature + float(found.residual[worst])
    stable = alpha * upper < 2  # False for NaN
    if stable:
        return Stability(curvature, alpha * curvature, True, "")
    where = f"structure {structures.ids[worst]!r}"
    if not math.isfinite(curvature):
        text = f"the curvature at {where} is {curvature}: no step size is stable there; check the potential"
    else:
        text = (
            f"alpha is {alpha} Å²/eV and λ_max {curvature:.3g} eV/Å² at {where}: α λ_max = "
            f"{alpha * curvature:.3g}, not below 2, so the relaxation oscillates; use alpha {1.5 / upper:.2g}"
        )
    return Stability(curvature, alpha * curvature, False, text)


def safe_alpha(
    potential: Potential,
    structures: Structures,
    *,
    product: float = 1.5,
    largest: float = 0.1,
    coordinates: FreeCoordinates | None = None,
    tolerance: float = 1e-3,
    max_products: int = 60,
    seed: int = 0,
) -> float:
    """Return the step size α = min(product / λ_max, largest), Å²/eV, with λ_max over all structures.

    Give it (near) minima: rattled starts are far stiffer and would make α needlessly small.

    Args:
        potential: the potential to relax on.
        structures: where to look.
        product: α λ_max to aim at, in (0, 2).
        largest: never return more than this, Å²/eV.
        coordinates: what moves; atoms in a fixed cell by default.
        tolerance: see `largest_curvature`.
        max_products: see `largest_curvature`.
        seed: see `largest_curvature`.

    Raises:
        SettingsError: `product`, `largest`, tolerance or number of products outside its range.
        PotentialError: the curvature is not finite at a structure.
    """
    if not 0 < product < 2:
        raise SettingsError(f"product is {product}: α λ_max must lie in (0, 2) to be stable, e.g. 1.5")
    if not largest > 0:
        raise SettingsError(f"largest is {largest}: allowed is a step size above 0 Å²/eV, e.g. 0.1")
    found = _largest(potential, structures, coordinates, tolerance, max_products, seed)
    bad = ~torch.isfinite(found.value)
    if bool(bad.any()):
        name = structures.ids[int(bad.nonzero()[0])]
        raise PotentialError(
            f"the curvature of the {potential.kind} potential at structure {name!r} is not finite: "
            "no step size is stable there; leave the structure out or check the potential"
        )
    curvature = float((found.value + found.residual).max())
    return min(product / curvature, largest) if curvature > 0 else largest


def _largest(
    potential: Potential,
    structures: Structures,
    coordinates: FreeCoordinates | None,
    tolerance: float,
    max_products: int,
    seed: int,
) -> _Largest:
    """Grow an orthonormal Krylov basis of all structures at once until every top eigenvalue has settled."""
    if not tolerance > 0:
        raise SettingsError(f"tolerance is {tolerance}: allowed is a number above 0, e.g. 1e-3")
    if max_products < 1:
        raise SettingsError(f"max_products is {max_products}: allowed is 1 or more, e.g. 60")
    curvature = Curvature(potential, structures, coordinates)
    owner, n = curvature.owner, len(structures)
    v = _start(curvature, structures, seed)
    basis = v.unsqueeze(1)  # rows j 3
    small = torch.zeros((n, max_products + 1, max_products), dtype=torch.float64, device=v.device)
    for j in range(max_products):
        w = curvature(v)
        scale = dot(w, w, owner, n).sqrt()
        for _ in range(2):  # once leaves rounding behind, twice is enough
            part = dots(basis, w, owner, n)
            w = w - combine(basis, part, owner)
            small[:, : j + 1, j] += part
        beta = dot(w, w, owner, n).sqrt()
        exhausted = beta <= 10 * torch.finfo(v.dtype).eps * scale
        small[:, j + 1, j] = torch.where(exhausted, 0.0, beta)
        # where the space was exhausted before, pad with a Rayleigh quotient of H: it never exceeds λ_max
        small[:, j, j] = torch.where(dot(v, v, owner, n) == 0, small[:, 0, 0], small[:, j, j])
        value, residual = _top(small[:, : j + 2, : j + 1], symmetric=potential.conservative)
        if j + 1 == max_products or not bool((residual > tolerance * value.abs()).any()):
            break
        v = torch.where(exhausted[owner, None], 0.0, w / beta[owner, None])
        basis = torch.cat([basis, v.unsqueeze(1)], 1)
    return _Largest(value.to(v.dtype), residual.to(v.dtype), j + 1)


def _start(curvature: Curvature, structures: Structures, seed: int) -> Float[Tensor, "rows 3"]:
    """Return a random unit vector per structure that depends on its id alone, zero where nothing moves."""
    counts = torch.bincount(curvature.owner, minlength=len(structures)).tolist()
    parts = [
        torch.randn((count, 3), generator=torch_stream(seed, "largest curvature", name), dtype=torch.float64)
        for count, name in zip(counts, structures.ids, strict=True)
    ]
    v = torch.cat(parts).to(device=structures.device, dtype=structures.dtype)
    v = curvature.movable(v)
    norm = dot(v, v, curvature.owner, len(structures)).sqrt()
    return v / torch.where(norm > 0, norm, 1.0)[curvature.owner, None]


def _top(
    small: Float[Tensor, "structures more j"], *, symmetric: bool
) -> tuple[Float[Tensor, " structures"], Float[Tensor, " structures"]]:
    """Return the largest eigenvalue of each Hessenberg matrix, |λ|²/Re λ if complex, and its residual, or NaN."""
    finite = torch.isfinite(small).all(dim=2).all(dim=1)
    square = torch.where(finite[:, None, None], small[:, :-1], 0.0)
    if symmetric:
        values, vectors = torch.linalg.eigh(0.5 * (square + square.transpose(1, 2)))
        value, residual = values[:, -1], small[:, -1, -1] * vectors[:, -1, -1].abs()
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
    return torch.where(finite, value, nan), torch.where(finite, residual, nan)
