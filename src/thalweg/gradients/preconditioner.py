"""A preconditioner for the adjoint of a conservative potential: a force-constant model fitted to two Hessian products.

The model is a sum of terms whose shape follows from the geometry alone,

    P(c) = Σ_m c_m F_m,     F_m = Σ_bonds b_m(r) · (stretch or shear)
                            or    Σ_bends W^p cos^l · (bend, stretch–stretch or stretch–bend)

Every F_m is symmetric and blind to translation; distances are measured in the nearest-neighbour distance of each
structure. The coefficients are fitted to products of the true Hessian with random vectors, twice: with the white
probe that the test of symmetry has already paid for, then with one vector drawn as z = L⁻ᵀ ξ, P = L Lᵀ, and the
misfit measured as |L⁻¹ (P z − H z)|, which weighs soft and stiff modes alike. The second fit needs a product more.
They are shared by a batch: structures made of the same bonds inform each other. P is made definite by a multiple
of the identity and inverted densely. A poor fit costs iterations, never accuracy.

Called by the adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_RADIAL, _FIRST, _LAST = 12, 0.94, 2.0
"""Gaussians over the distance, and where the first and the last one stand, in nearest-neighbour distances."""
_BEND_REACH = 1.45
"""Arms of bends are shorter than this, in nearest-neighbour distances: beyond the first shell, before the second."""
_POWERS = tuple((p, power) for p in (1, 2) for power in range(4))
"""Powers p of the arms' window W and l of the cosine."""
_SHIFT = 0.005
"""First σ, relative to the mean diagonal of P."""
_RIDGE = 1e-6
"""Ridge of the fit, relative to normalised terms."""


@dataclass(frozen=True, eq=False)
class Padded:
    """Fields of a ragged batch as one vector per structure, of the length of the longest, zeros behind."""

    slot: Int[Tensor, " rows"]
    """Place of each row in the flattened padding."""
    structures: int
    """Number of structures."""
    width: int
    """Rows of the largest structure."""

    @staticmethod
    def of(owner: Int[Tensor, " rows"], structures: int) -> Padded:
        """Return the padding of a batch with these owners (ascending)."""
        counts = torch.bincount(owner, minlength=structures)
        first = torch.cumsum(counts, 0) - counts
        place = torch.arange(len(owner), device=owner.device) - first[owner]
        width = int(counts.max())
        return Padded(owner * width + place, structures, width)

    def pack(self, fields: Float[Tensor, "rows fields 3"]) -> Float[Tensor, "structures size fields"]:
        """Return the columns of each structure; size is three times the width."""
        whole = fields.new_zeros((self.structures * self.width, *fields.shape[1:])).index_copy(0, self.slot, fields)
        whole = whole.view(self.structures, self.width, fields.shape[1], 3)
        return whole.permute(0, 1, 3, 2).reshape(self.structures, 3 * self.width, fields.shape[1])

    def unpack(self, columns: Float[Tensor, "structures size fields"]) -> Float[Tensor, "rows fields 3"]:
        """Return the rows again."""
        whole = columns.reshape(self.structures * self.width, 3, columns.shape[2])
        return whole[self.slot].transpose(1, 2)


class ForceConstants:
    """The terms F_m of a batch of structures."""

    def __init__(self, structures: Structures, edges: Edges, cutoff: float) -> None:
        """Lay out bonds and bends.

        Args:
            structures: where.
            edges: neighbour list of the potential, sorted by centre.
            cutoff: its range, Å; no term reaches farther.
        """
        self.rows, self.owner = len(structures.positions), structures.owner
        self.padded = Padded.of(self.owner, len(structures))
        self.i, self.j = edges.centre, edges.neighbour
        vectors = edges.vectors(structures).detach().double()
        r: Tensor = torch.linalg.vector_norm(vectors, dim=1)
        self.u = vectors / r[:, None]
        s = r / _nearest(r, edges.centre, structures, cutoff)[self.owner[edges.centre]]
        centres = torch.linspace(_FIRST, _LAST, _RADIAL, dtype=r.dtype, device=r.device)
        width = (_LAST - _FIRST) / (_RADIAL - 1)
        envelope = (1 - (r / cutoff).square()).clamp_min(0).square()
        self.bonds = torch.exp(-((s[:, None] - centres) / width).square()) * envelope[:, None]  # edges radial
        first, second = _pairs_of_short(edges.centre, s)
        self.first, self.second = first, second
        cosine = (self.u[first] * self.u[second]).sum(dim=1, keepdim=True)
        window = (1 - (s / _BEND_REACH).square()).clamp_min(0)
        arms = (window[first] * window[second])[:, None]
        self.bends = torch.cat([arms**p * cosine**power for p, power in _POWERS], dim=1)  # bends powers
        self.turn_first = (self.u[second] - cosine * self.u[first]) / s[first, None]  # ∂cos/∂s of the first arm
        self.turn_second = (self.u[first] - cosine * self.u[second]) / s[second, None]

    def __len__(self) -> int:
        return 2 * _RADIAL + 3 * len(_POWERS)

    def products(self, v: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows terms 3"]:
        """Return F_m v for every term."""
        v = v.double()
        d = v[self.j] - v[self.i]
        along = (d * self.u).sum(dim=1, keepdim=True) * self.u
        parts = torch.stack([along, d - along], dim=1)  # edges 2 3
        bonds = -torch.einsum("em,epc->empc", self.bonds, parts).flatten(1, 2)
        result = v.new_zeros((self.rows, 2 * _RADIAL, 3)).index_add(0, self.i, bonds)
        a, b = self.u[self.first], self.u[self.second]
        d_a, d_b = d[self.first], d[self.second]
        turn = ((self.turn_first * d_a) + (self.turn_second * d_b)).sum(dim=1, keepdim=True)
        long_a, long_b = (a * d_a).sum(dim=1, keepdim=True), (b * d_b).sum(dim=1, keepdim=True)
        both = long_a + long_b
        on_a = torch.stack([turn * self.turn_first, long_b * a, turn * a + both * self.turn_first], dim=1)
        on_b = torch.stack([turn * self.turn_second, long_a * b, turn * b + both * self.turn_second], dim=1)
        on_a, on_b = (torch.einsum("tm,tpc->tmpc", self.bends, y).flatten(1, 2) for y in (on_a, on_b))
        bends = v.new_zeros((self.rows, on_a.shape[1], 3)).index_add(0, self.j[self.first], on_a)
        bends = bends.index_add(0, self.j[self.second], on_b).index_add(0, self.i[self.first], -(on_a + on_b))
        return torch.cat([result, bends], dim=1)

    def matrix(self, coefficients: Float[Tensor, " terms"]) -> Float[Tensor, "structures size size"]:
        """Return P(c) of each structure, padded with zeros."""
        k_bond = self.bonds @ coefficients[: 2 * _RADIAL].view(_RADIAL, 2)  # edges 2: along, across
        k_bend = self.bends @ coefficients[2 * _RADIAL :].view(len(_POWERS), 3)
        outer = torch.einsum("ea,eb->eab", self.u, self.u)
        across = torch.eye(3, dtype=outer.dtype, device=outer.device) - outer
        bond = k_bond[:, 0, None, None] * outer + k_bond[:, 1, None, None] * across
        entries = [(self.i, self.i, bond), (self.i, self.j, -bond)]
        a, b = self.u[self.first], self.u[self.second]
        g, h = self.turn_first, self.turn_second
        bend, stretch, mixed = (k_bend[:, m, None, None] for m in range(3))

        def two(x: Tensor, y: Tensor) -> Tensor:
            return torch.einsum("ta,tb->tab", x, y)

        aa = bend * two(g, g) + mixed * (two(a, g) + two(g, a))
        bb = bend * two(h, h) + mixed * (two(b, h) + two(h, b))
        ab = bend * two(g, h) + stretch * two(a, b) + mixed * (two(a, h) + two(g, b))
        ba = ab.transpose(1, 2)
        i, j, k = self.i[self.first], self.j[self.first], self.j[self.second]
        entries += [(j, j, aa), (k, k, bb), (j, k, ab), (k, j, ba), (i, i, aa + bb + ab + ba)]
        entries += [(j, i, -aa - ab), (k, i, -bb - ba), (i, j, -aa - ba), (i, k, -bb - ab)]
        width, slot = self.padded.width, self.padded.slot
        whole = bond.new_zeros((self.padded.structures * width * width, 3, 3))
        for row, column, block in entries:
            whole.index_add_(0, slot[row] * width + slot[column] % width, block)
        whole = whole.view(self.padded.structures, width, width, 3, 3).permute(0, 1, 3, 2, 4)
        return whole.reshape(self.padded.structures, 3 * width, 3 * width)


@dataclass(frozen=True, eq=False)
class DensePreconditioner:
    """M = Π P⁻¹ Π, dense, one block per structure."""

    inverse: Float[Tensor, "structures size size"]
    """M, padded."""
    owner: Int[Tensor, " rows"]
    """Structure of each row, ascending."""

    @cached_property
    def _padded(self) -> Padded:
        return Padded.of(self.owner, len(self.inverse))

    def __call__(self, vector: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return M v."""
        size = 3 * self._padded.width
        packed = self._padded.pack(vector.unsqueeze(1))
        return self._padded.unpack(self.inverse[:, :size, :size] @ packed).squeeze(1)

    def restrict(self, keep: Bool[Tensor, " structures"]) -> DensePreconditioner:
        """Return M of the chosen structures alone."""
        renumber = torch.cumsum(keep, 0) - 1
        return DensePreconditioner(self.inverse[keep], renumber[self.owner[keep[self.owner]]])


def fit_preconditioner(
    terms: ForceConstants,
    operator: Callable[[Tensor], Tensor],
    probe: tuple[Float[Tensor, "rows 3"], Float[Tensor, "rows 3"]],
    second: Float[Tensor, "rows 3"],
    null: Float[Tensor, "modes rows 3"] | None,
    free: Bool[Tensor, "rows 3"],
) -> DensePreconditioner:
    """Fit the model to two products with the Hessian (one of them made here) and return its inverse.

    Args:
        terms: the model.
        operator: the projected Hessian Π H Π.
        probe: a random vector on free components and its product with the Hessian.
        second: another random vector on free components.
        null: orthonormal modes by structure that Π removes besides fixed components; None for no others.
        free: which components may move.
    """
    padded, dtype = terms.padded, second.dtype
    direction, response = probe
    rough = _fit(_masked(terms.products(direction), free), response.double().unsqueeze(1), None)
    lower = _factor(terms.matrix(rough), padded, null, free)
    drawn = padded.pack(second.double().unsqueeze(1))
    drawn = torch.linalg.solve_triangular(lower.transpose(1, 2), drawn, upper=True)
    z = padded.unpack(drawn).squeeze(1).to(dtype)
    wanted = operator(z).double().unsqueeze(1)
    offered = _masked(terms.products(z), free)
    weighted = [torch.linalg.solve_triangular(lower, padded.pack(f), upper=False) for f in (offered, wanted)]
    rows = [padded.unpack(w) for w in weighted]
    fine = _fit(rows[0], rows[1], rough)
    lower = _factor(terms.matrix(fine), padded, null, free)
    inverse = torch.cholesky_inverse(lower)
    inverse = _project(inverse, padded, null, free)
    return DensePreconditioner((0.5 * (inverse + inverse.transpose(1, 2))).to(dtype), terms.owner)


def _masked(fields: Float[Tensor, "rows fields 3"], free: Bool[Tensor, "rows 3"]) -> Float[Tensor, "rows fields 3"]:
    return torch.where(free.unsqueeze(1), fields, 0.0)


def _fit(
    offered: Float[Tensor, "rows terms 3"],
    wanted: Float[Tensor, "rows 1 3"],
    before: Float[Tensor, " terms"] | None,
) -> Float[Tensor, " terms"]:
    """Return least-squares coefficients; a ridge holds what the data leave open to those before (or zero)."""
    a, y = offered.transpose(1, 2).flatten(0, 1), wanted.flatten()
    size = torch.linalg.vector_norm(a, dim=0)
    size = torch.where(size > 0, size, 1.0)
    start = torch.zeros_like(size) if before is None else before * size
    a = a / size
    normal = a.T @ a + _RIDGE * torch.eye(len(size), dtype=a.dtype, device=a.device)
    step = torch.linalg.solve(normal, a.T @ (y - a @ start))
    found = (start + step) / size
    return torch.where(torch.isfinite(found), found, 0.0)


def _project(
    matrix: Float[Tensor, "structures size size"],
    padded: Padded,
    null: Float[Tensor, "modes rows 3"] | None,
    free: Bool[Tensor, "rows 3"],
) -> Float[Tensor, "structures size size"]:
    """Return Π A Π of symmetric A."""
    mask = padded.pack(free.to(matrix.dtype).unsqueeze(1))
    matrix = mask * matrix * mask.transpose(1, 2)
    if null is None:
        return matrix
    modes = padded.pack(null.to(matrix.dtype).transpose(0, 1))  # structures size modes
    matrix = matrix - modes @ (modes.transpose(1, 2) @ matrix)
    return matrix - (matrix @ modes) @ modes.transpose(1, 2)


def _factor(
    matrix: Float[Tensor, "structures size size"],
    padded: Padded,
    null: Float[Tensor, "modes rows 3"] | None,
    free: Bool[Tensor, "rows 3"],
) -> Float[Tensor, "structures size size"]:
    """Return the Cholesky factor of Π P Π + 2 σ 1, σ doubled until Π P Π + σ 1 has one; that of 1 if P is not finite.

    The second σ keeps the lowest eigenvalue above σ: a factor found by a hair's breadth once gave an inverse that
    single precision could not iterate with (a true residual of 0.17 where 1e-4 was asked for).
    """
    matrix = _project(matrix, padded, null, free)
    finite = torch.isfinite(matrix).all(dim=(1, 2))
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    matrix = torch.where(finite[:, None, None], matrix, identity)
    mean = torch.diagonal(matrix, dim1=1, dim2=2).abs().mean(dim=1)
    shift = _SHIFT * torch.where(mean > 0, mean, 1.0)
    while True:
        _, failed = torch.linalg.cholesky_ex(matrix + shift[:, None, None] * identity)
        if not bool(failed.any()):
            return torch.linalg.cholesky(matrix + 2 * shift[:, None, None] * identity)
        shift = torch.where(failed > 0, 2 * shift, shift)


def _nearest(
    r: Float[Tensor, " edges"], centre: Int[Tensor, " edges"], structures: Structures, cutoff: float
) -> Float[Tensor, " structures"]:
    """Return the median over the atoms of each structure of the distance to the nearest neighbour, Å."""
    nearest = r.new_full((len(structures.positions),), cutoff).scatter_reduce(0, centre, r, reduce="amin")
    parts = nearest.split(structures.counts.tolist())
    return torch.stack([part.median() for part in parts])


def _pairs_of_short(
    centre: Int[Tensor, " edges"], s: Float[Tensor, " edges"]
) -> tuple[Int[Tensor, " bends"], Int[Tensor, " bends"]]:
    """Return the two edges of every pair of short edges that share a centre."""
    short = (s < _BEND_REACH).nonzero().squeeze(1)
    around = centre[short]
    counts = torch.bincount(around) if len(around) else around
    last = torch.cumsum(counts, 0)[around] - 1 if len(around) else around
    number = torch.arange(len(short), device=s.device)
    later = last - number  # edges of the same centre that come after this one
    first = torch.repeat_interleave(number, later)
    before = torch.cumsum(later, 0) - later
    second = first + 1 + torch.arange(len(first), device=s.device) - before[first]
    return short[first], short[second]
