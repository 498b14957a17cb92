"""Sums over neighbours of coupled and weighted features, block by block, whose graph keeps nothing for each product.

    A_imc = Σ_js T_ijs,m W_ijs,c u_n(ij),s,c        T = Y Q,  W = R w

runs over the slots j of an atom i, whose neighbour is n(ij), and over rows s of features u. Harmonics Y are coupled to
components m of the result by constants Q, radial functions R weighted by filters w. Features of the neighbours, W and
their product are a hundred times as large as all that goes in and comes out. So they are formed for a block of atoms at
a time, small enough to stay in a core's cache, and formed again for each derivative, by a gather and two products.
Autograd would keep them all. With p = T a, v = W ∘ s, s = u_n and a the gradient of A, derivatives are

    ∂/∂T = a v        ∂/∂W = p ∘ s        ∂/∂u_n = Σ p ∘ W

and those along tangents t, ω and σ of T, W and s

    to a: t v + T c        to T: a c        to W: (t a) ∘ s + p ∘ σ        to u_n: Σ (t a) ∘ W + p ∘ ω        c = ω ∘ s + σ ∘ W

Further ones are those of the operations that these consist of. Called by the equivariant potential.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_BYTES = 400_000
"""What the features of a block's neighbours take at most, unless those of one atom take more."""


class Inputs(NamedTuple):
    """What sums are formed from."""

    harmonics: Float[Tensor, "components pairs"]
    """Y; pairs by atom, then slot."""
    radial: Float[Tensor, "radial pairs"]
    """R."""
    features: Float[Tensor, "rows atoms channels"]
    """u; rows by order of the result."""
    filters: Float[Tensor, "radial rows channels"]
    """w."""
    neighbour: Int[Tensor, "atoms slots"]
    """n, an index along the atom axis."""


def neighbour_sums(
    inputs: Inputs, couplings: tuple[Float[Tensor, "components _ _"], ...]
) -> Float[Tensor, "atoms _ channels"]:
    """Return A, differentiable any number of times in all of `inputs` but the indices.

    Args:
        inputs: what is summed.
        couplings: Q for each order of the result: components of Y, rows of that order, components of A.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return _sums(inputs, couplings)
    found: Tensor = _Sums.apply(couplings, *inputs)  # type: ignore[no-untyped-call]
    return found


class _Part(NamedTuple):
    """One order of the result: its constants, its rows of features and filters, and where these lie."""

    q: Tensor  # components, (rows, m)
    u: Tensor  # atoms, (rows, channels)
    w: Tensor  # radial, (rows, channels)
    components: slice


def _parts(features: Tensor, filters: Tensor, couplings: tuple[Tensor, ...]) -> Iterator[_Part]:
    widths, begin = [q.shape[1] for q in couplings], 0
    for q, u, w in zip(couplings, features.split(widths), filters.split(widths, 1), strict=True):
        end = begin + q.shape[2]
        yield _Part(q.flatten(1), u.transpose(0, 1).flatten(1), w.flatten(1), slice(begin, end))
        begin = end


class _Block(NamedTuple):
    """Some atoms."""

    atoms: slice
    pairs: slice
    index: Tensor  # neighbour of each pair
    count: int


def _blocks(neighbour: Tensor, part: _Part) -> Iterator[_Block]:
    atoms, slots = neighbour.shape
    size = atoms
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        size = max(1, BLOCK_BYTES // (slots * part.w.shape[1] * part.w.element_size()))
    if size >= atoms:
        yield _Block(slice(None), slice(None), neighbour.flatten(), atoms)
        return
    for begin in range(0, atoms, size):
        end = min(begin + size, atoms)
        yield _Block(slice(begin, end), slice(begin * slots, end * slots), neighbour[begin:end].flatten(), end - begin)


def _formed(inputs: Inputs, part: _Part, block: _Block) -> tuple[Tensor, Tensor, Tensor]:
    """Return T (atoms, slots and rows, m), W and s (pairs, rows and channels)."""
    coupled = inputs.harmonics[:, block.pairs].T @ part.q
    weights = inputs.radial[:, block.pairs].T @ part.w
    return _by_atom(coupled, part, block), weights, part.u.index_select(0, block.index)


def _by_atom(x: Tensor, part: _Part, block: _Block) -> Tensor:
    """Return values of pairs, rows and m or channels with pairs and rows of an atom as one axis."""
    rows = part.q.shape[1] // (part.components.stop - part.components.start)
    return x.reshape(block.count, -1, x.shape[1] // rows)


def _sums(inputs: Inputs, couplings: tuple[Tensor, ...]) -> Tensor:
    found = []
    for part in _parts(inputs.features, inputs.filters, couplings):
        sums = []
        for block in _blocks(inputs.neighbour, part):
            t, w, s = _formed(inputs, part, block)
            sums.append(t.transpose(1, 2) @ _by_atom(s * w, part, block))
        found.append(torch.cat(sums))
    return torch.cat(found, 1)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, couplings: tuple[Tensor, ...], *given: Tensor) -> Tensor:
        ctx.couplings = couplings
        ctx.save_for_backward(*given)
        return _sums(Inputs(*given), couplings)

    @staticmethod
    def backward(ctx: Any, sent: Tensor) -> Any:
        return None, *_Slopes.apply(ctx.couplings, sent, *ctx.saved_tensors), None  # type: ignore[no-untyped-call]


class _Slopes(torch.autograd.Function):
    """Gradients of ⟨sent, A⟩ to harmonics, radial functions, features and filters."""

    @staticmethod
    def forward(ctx: Any, couplings: tuple[Tensor, ...], sent: Tensor, *given: Tensor) -> Any:
        ctx.couplings = couplings
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(sent, *given)
        inputs = Inputs(*given)
        to_y, to_r = torch.zeros_like(inputs.harmonics), torch.zeros_like(inputs.radial)
        to_u, to_w = [], []
        for part in _parts(inputs.features, inputs.filters, couplings):
            du, dw = torch.zeros_like(part.u), torch.zeros_like(part.w)
            for block in _blocks(inputs.neighbour, part):
                t, w, s = _formed(inputs, part, block)
                a = sent[block.atoms, part.components]
                p = (t @ a).view_as(w)
                v = _by_atom(s * w, part, block)
                dt = (a @ v.transpose(1, 2)).transpose(1, 2).reshape(len(w), -1)
                to_y[:, block.pairs].addmm_(part.q, dt.T)
                s *= p
                to_r[:, block.pairs].addmm_(part.w, s.T)
                dw.addmm_(inputs.radial[:, block.pairs], s)
                du.index_add_(0, block.index, p.mul_(w))
            to_u.append(du.view(len(du), -1, inputs.features.shape[2]).transpose(0, 1))
            to_w.append(dw.view(len(dw), -1, inputs.features.shape[2]))
        return to_y, to_r, torch.cat(to_u), torch.cat(to_w, 1)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> Any:
        sent, *given = ctx.saved_tensors
        inputs = Inputs(*given)
        ty, tr, tu = (torch.zeros_like(x) if t is None else t for x, t in zip(given[:3], tangents[:3], strict=True))
        tw = tangents[3]
        channels = inputs.features.shape[2]
        to_a, to_y, to_r, to_u, to_w = [], [], [], [], []
        filters = inputs.filters if tw is None else tw
        for part, other in zip(
            _parts(inputs.features, inputs.filters, ctx.couplings), _parts(tu, filters, ctx.couplings), strict=True
        ):
            du, dw = torch.zeros_like(part.u), torch.zeros_like(part.w)
            das, dys, drs = [], [], []
            for block in _blocks(inputs.neighbour, part):
                t, w, s = _formed(inputs, part, block)
                a = sent[block.atoms, part.components]
                r, rt = inputs.radial[:, block.pairs], tr[:, block.pairs]
                tt = _by_atom(ty[:, block.pairs].T @ part.q, part, block)
                wt = rt.T @ part.w
                if tw is not None:
                    wt = wt + r.T @ other.w
                st = other.u.index_select(0, block.index)
                p, pt = (t @ a).view_as(w), (tt @ a).view_as(w)
                changed = _by_atom(wt * s + st * w, part, block)
                das.append(tt.transpose(1, 2) @ _by_atom(s * w, part, block) + t.transpose(1, 2) @ changed)
                dt = (a @ changed.transpose(1, 2)).transpose(1, 2).reshape(len(w), -1)
                dys.append(part.q @ dt.T)
                ps, dws = p * s, pt * s + p * st
                dw = dw + r @ dws + rt @ ps
                dr = part.w @ dws.T
                drs.append(dr if tw is None else dr + other.w @ ps.T)
                du.index_add_(0, block.index, pt * w + p * wt)
            to_a.append(torch.cat(das))
            to_y.append(torch.cat(dys, 1))
            to_r.append(torch.cat(drs, 1))
            to_u.append(du.view(len(du), -1, channels).transpose(0, 1))
            to_w.append(dw.view(len(dw), -1, channels))
        return None, torch.cat(to_a, 1), sum(to_y), sum(to_r), torch.cat(to_u), torch.cat(to_w, 1), None
