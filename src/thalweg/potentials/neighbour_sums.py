"""Sums over neighbours of coupled and weighted features, block by block, whose graph keeps nothing for each product.

    A_imc = Σ_js T_ijs,m W_ijs,c u_n(ij),s,c        T = Y Q,  W = R w

runs over the slots j of an atom i, whose neighbour is n(ij), and over rows s of features u. Harmonics Y are coupled to
components m of the result by constants Q, radial functions R weighted by filters w. Features of the neighbours, W and
their product are a hundred times as large as all that goes in and comes out. So they are formed for a block of atoms at
a time, small enough to stay in a core's cache, and formed again for each derivative, by a gather and two products.
Autograd would keep them all. With p = T a, v = W ∘ s, s = u_n and a the gradient of A, derivatives are

    ∂/∂T = a v        ∂/∂W = p ∘ s        ∂/∂u_n = Σ p ∘ W

and those along tangents t, ω and σ of T, W and s

    to a: t v + T c      to T: a c      to W: (t a) ∘ s + p ∘ σ      to u_n: Σ (t a) ∘ W + p ∘ ω      c = ω ∘ s + σ ∘ W

Further ones are those of the operations that these consist of. Called by the equivariant potential.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_BYTES = 1_500_000
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
    found: Tensor = _Sums.apply(couplings, *inputs)
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
    """Some atoms and their pairs."""

    atoms: slice
    pairs: slice
    others: Tensor  # neighbour of each pair
    many: int


def _blocks(neighbour: Tensor, part: _Part) -> Iterator[_Block]:
    atoms, slots = neighbour.shape
    size = atoms
    if not torch.jit.is_tracing() and not part.w.is_cuda:  # type: ignore[attr-defined]
        size = max(1, BLOCK_BYTES // (slots * part.w.shape[1] * part.w.element_size()))
    if size >= atoms:
        yield _Block(slice(None), slice(None), neighbour.flatten(), atoms)
        return
    for begin in range(0, atoms, size):
        end = min(begin + size, atoms)
        yield _Block(slice(begin, end), slice(begin * slots, end * slots), neighbour[begin:end].flatten(), end - begin)


class _Desk:
    """Memory of this thread that blocks use one after the other, or none, where a graph is recorded.

    Fresh memory for every block costs more than the arithmetic: the system hands it out page by page.
    """

    kept = threading.local()

    def __init__(self, like: Tensor) -> None:
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        self.like = None if tracing or torch.is_grad_enabled() or like.device.type != "cpu" else like

    def place(self, name: str, *shape: int) -> Tensor | None:
        """Return memory for a tensor of that shape; whatever had that name is overwritten."""
        if self.like is None:
            return None
        kept: dict[str, Tensor] = self.kept.__dict__
        key, size = f"{name} {self.like.dtype}", math.prod(shape)
        if key not in kept or kept[key].shape[0] < size:
            kept[key] = self.like.new_empty(size)
        return kept[key][:size].view(shape)


def _by_atom(x: Tensor, part: _Part, block: _Block) -> Tensor:
    """Return values of pairs, rows and m or channels with pairs and rows of an atom as one axis."""
    rows = part.q.shape[1] // (part.components.stop - part.components.start)
    return x.reshape(block.many, -1, x.shape[1] // rows)


def _formed(inputs: Inputs, part: _Part, block: _Block, desk: _Desk, name: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """Return T (atoms, slots and rows, m), W and s (pairs, rows and channels)."""
    pairs, wide = block.others.shape[0], part.w.shape[1]
    t = torch.mm(inputs.harmonics[:, block.pairs].T, part.q, out=desk.place(name + "t", pairs, part.q.shape[1]))
    w = torch.mm(inputs.radial[:, block.pairs].T, part.w, out=desk.place(name + "w", pairs, wide))
    s = torch.index_select(part.u, 0, block.others, out=desk.place(name + "s", pairs, wide))
    return _by_atom(t, part, block), w, s


def _sums(inputs: Inputs, couplings: tuple[Tensor, ...]) -> Tensor:
    found, desk = [], _Desk(inputs.radial)
    for part in _parts(inputs.features, inputs.filters, couplings):
        sums = []
        for block in _blocks(inputs.neighbour, part):
            t, w, s = _formed(inputs, part, block, desk)
            v = torch.mul(s, w, out=desk.place("v", *w.shape))
            sums.append(t.transpose(1, 2) @ _by_atom(v, part, block))
        found.append(torch.cat(sums))
    return torch.cat(found, 1)


class _Totals:
    """Gradients to harmonics, radial functions, features and filters, as far as wanted, added up block by block."""

    def __init__(self, inputs: Inputs, wanted: Sequence[bool]) -> None:
        self.wanted = wanted
        self.y, self.r = torch.zeros_like(inputs.harmonics), torch.zeros_like(inputs.radial)
        self.channels = inputs.features.shape[2]
        self.u: list[Tensor] = []
        self.w: list[Tensor] = []

    def begin(self, part: _Part) -> None:
        self.u.append(torch.zeros_like(part.u))
        self.w.append(torch.zeros_like(part.w))

    def add_couplings(self, part: _Part, block: _Block, a: Tensor, v: Tensor) -> None:
        """Add what follows from the gradient a v to T."""
        pairs = block.others.shape[0]
        slopes = torch.bmm(a, v.transpose(1, 2)).transpose(1, 2).reshape(pairs, -1)
        self.y[:, block.pairs].addmm_(part.q, slopes.T)

    def add_weights(self, block: _Block, r: Tensor, w: Tensor, slopes: Tensor) -> None:
        """Add what follows from a gradient to W = R w."""
        if self.wanted[1]:
            self.r[:, block.pairs].addmm_(w, slopes.T)
        if self.wanted[3]:
            self.w[-1].addmm_(r[:, block.pairs], slopes)

    def found(self) -> tuple[Tensor | None, ...]:
        u = torch.cat([x.view(x.shape[0], -1, self.channels).transpose(0, 1) for x in self.u])
        w = torch.cat([x.view(x.shape[0], -1, self.channels) for x in self.w], 1)
        return tuple(x if wanted else None for x, wanted in zip((self.y, self.r, u, w), self.wanted, strict=True))


def _wanted(ctx: Any) -> list[bool]:
    """Return which inputs this backward pass leads on to; all that can be, where torch does not tell."""
    asked = getattr(torch._C, "_will_engine_execute_node", None)
    found = []
    for node, _ in ctx.next_functions:
        wanted = node is not None
        if wanted and asked is not None:
            with suppress(RuntimeError):  # not told of leaves
                wanted = asked(node)
        found.append(wanted)
    return found


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, couplings: tuple[Tensor, ...], *given: Tensor) -> Tensor:
        ctx.couplings = couplings
        ctx.save_for_backward(*given)
        return _sums(Inputs(*given), couplings)

    @staticmethod
    def backward(ctx: Any, sent: Tensor) -> Any:
        wanted = _wanted(ctx)[:4]
        return None, *_Slopes.apply(ctx.couplings, wanted, sent, *ctx.saved_tensors), None


class _Slopes(torch.autograd.Function):
    """Gradients of ⟨sent, A⟩ to harmonics, radial functions, features and filters."""

    @staticmethod
    def forward(ctx: Any, couplings: tuple[Tensor, ...], wanted: list[bool], sent: Tensor, *given: Tensor) -> Any:
        ctx.couplings = couplings
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(sent, *given)
        inputs = Inputs(*given)
        desk, totals = _Desk(inputs.radial), _Totals(inputs, wanted)
        for part in _parts(inputs.features, inputs.filters, couplings):
            totals.begin(part)
            for block in _blocks(inputs.neighbour, part):
                t, w, s = _formed(inputs, part, block, desk)
                a = sent[block.atoms, part.components]
                p = torch.mul(s, w, out=desk.place("p", *w.shape))
                v = _by_atom(p, part, block)
                if wanted[0]:
                    totals.add_couplings(part, block, a, v)
                torch.bmm(t, a, out=v)  # p from here on
                if wanted[1] or wanted[3]:
                    totals.add_weights(block, inputs.radial, part.w, s.mul_(p))
                if wanted[2]:
                    totals.u[-1].index_add_(0, block.others, p.mul_(w))
        return totals.found()

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> Any:
        sent, *given = ctx.saved_tensors
        inputs = Inputs(*given)
        y, r, u, w = (torch.zeros_like(x) if t is None else t for x, t in zip(given[:4], tangents, strict=True))
        moved = Inputs(y, r, u, w, inputs.neighbour)
        to_sent = torch.zeros_like(sent)
        totals = _Totals(inputs, _wanted(ctx)[1:5])
        task = _Second(inputs, moved, sent, to_sent, totals, fixed=tangents[3] is None)
        for part, other in zip(
            _parts(inputs.features, inputs.filters, ctx.couplings),
            _parts(moved.features, moved.filters, ctx.couplings),
            strict=True,
        ):
            totals.begin(part)
            for block in _blocks(inputs.neighbour, part):
                _second(task, part, other, block)
        return None, None, to_sent, *totals.found(), None


class _Second(NamedTuple):
    """What the blocks of one second derivative share; `to_sent` and `totals` are added to."""

    inputs: Inputs
    moved: Inputs  # tangents
    sent: Tensor
    to_sent: Tensor
    totals: _Totals
    fixed: bool  # filters have no tangent


def _second(task: _Second, part: _Part, other: _Part, block: _Block) -> None:
    """Add the gradients of ⟨slopes, tangents⟩ of one block; `other` is the part of the tangents."""
    inputs, moved, sent, to_sent, totals, fixed = task
    desk = _Desk(inputs.radial)
    a = sent[block.atoms, part.components]
    t, w, s = _formed(inputs, part, block, desk)
    tt, wt, st = _formed(moved, part._replace(u=other.u), block, desk, "moved ")
    if not fixed:
        wt = wt + inputs.radial[:, block.pairs].T @ other.w
    v = _by_atom(torch.mul(s, w, out=desk.place("v", *w.shape)), part, block)
    target = to_sent[block.atoms, part.components]
    target.baddbmm_(tt.transpose(1, 2), v)
    c = torch.addcmul(torch.mul(wt, s, out=desk.place("v", *w.shape)), st, w, out=desk.place("c", *w.shape))
    c = _by_atom(c, part, block)
    target.baddbmm_(t.transpose(1, 2), c)
    if totals.wanted[0]:
        totals.add_couplings(part, block, a, c)
    p = torch.bmm(t, a, out=desk.place("c", *c.shape)).view_as(w)
    pt = torch.bmm(tt, a, out=desk.place("pt", *c.shape)).view_as(w)
    if totals.wanted[1] or totals.wanted[3]:
        slopes = torch.mul(p, s, out=desk.place("v", *w.shape))
        if totals.wanted[3]:
            totals.w[-1].addmm_(moved.radial[:, block.pairs], slopes)
        if totals.wanted[1] and not fixed:
            totals.r[:, block.pairs].addmm_(other.w, slopes.T)
        slopes = torch.addcmul(torch.mul(pt, s, out=desk.place("v", *w.shape)), p, st, out=desk.place("s", *w.shape))
        totals.add_weights(block, inputs.radial, part.w, slopes)
    if totals.wanted[2]:
        slopes = torch.addcmul(torch.mul(pt, w, out=desk.place("v", *w.shape)), p, wt, out=desk.place("s", *w.shape))
        totals.u[-1].index_add_(0, block.others, slopes)
