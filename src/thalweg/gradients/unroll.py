"""Differentiating K updates: the chain X_{t+1} = G_θ(X_t), kept whole or recomputed step by step.

Plain unrolling keeps the graph of every step, so saved bytes grow with K times the activations of the potential.
Recomputed unrolling keeps only states (3N numbers each) and rebuilds one step's graph at a time during backward:

    v_K = ∂L/∂X_K,   v_t = (∂G_θ/∂X)ᵀ v_{t+1},   dL/dθ = Σ_t (∂G_θ/∂θ)ᵀ v_{t+1}   at X_t

All K states are kept, each with its neighbour list (seven bytes an edge), so that backward need not search again:
with 8 × 65 atoms that takes recomputation from 1.64 to 1.32 times the plain time (Stillinger–Weber), from 1.34 to
1.29 (PaiNN). For very long runs as many states as asked for are kept, without lists, and the others are stepped to
again from those, by the binomial schedule.

All give the same bits: every step sees its own alias of the parameters, so gradients are summed step by step, last
step first, in either case, and the recomputed forward pass uses the kernels of the differentiable one. (Without its
graph the forward pass of PaiNN differs in the last bit, for 4 % less time.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thalweg.gradients.binomial import first_kept, next_kept
from thalweg.gradients.kept_edges import KeptEdges, keep_edges
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class Step(nn.Module):
    """G_θ as a module: one update of a given batch of structures."""

    def __init__(
        self, potential: Potential, structures: Structures, update: Descent, coordinates: FreeCoordinates
    ) -> None:
        """Fix everything but the coordinates."""
        super().__init__()
        self.potential = potential
        self.structures = structures
        self.update = update
        self.coordinates = coordinates

    def forward(self, rows: Float[Tensor, "rows 3"], edges: Edges | None = None) -> Float[Tensor, "rows 3"]:
        """Return G_θ(X), differentiable to X and to the parameters; neighbours are found afresh when None."""
        _, forces = self.coordinates.evaluate(self.potential, self.structures, rows, edges=edges, graph=True)
        return self.update.move(rows, forces)

    def edges(self, rows: Float[Tensor, "rows 3"]) -> Edges:
        """Return the neighbour list at X."""
        return self.potential.edges(self.coordinates.place(self.structures, rows.detach()))

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the parameters that want gradients, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def unroll(
    step: Step, rows: Float[Tensor, "rows 3"], count: int, *, recompute: bool, states: int | None = None
) -> Float[Tensor, "rows 3"]:
    """Apply `count` updates and return coordinates (Å) differentiable to the parameters and to `rows`.

    Args:
        step: the update.
        rows: coordinates of the start.
        count: number of updates K.
        recompute: keep only states and rebuild each step's graph during backward.
        states: most states kept by recomputation, at least 1; None keeps all K.
    """
    learned = step.learned()
    if recompute:
        return _Recomputed.apply(step, count, count if states is None else states, rows, *learned.values())
    for _ in range(count):
        aliases = {name: p.view_as(p) for name, p in learned.items()}
        rows = torch.func.functional_call(step, aliases, (rows,))
    return rows


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, count: int, states: int, rows: Tensor, *parameters: Tensor) -> Tensor:
        places = first_kept(count, states)
        whole = len(places) == count  # then neighbours are kept beside the states
        kept: list[Tensor] = []
        lists: list[KeptEdges] = []
        state = rows.detach()
        for t in range(count):
            edges = step.edges(state) if whole else None
            if edges is not None:
                lists.append(keep_edges(edges, len(step.structures.numbers), lists[-1] if lists else None))
            if t in places:
                kept.append(state)
            state = _advance(step, state, edges)
        ctx.step, ctx.count, ctx.states, ctx.places = step, count, states, places
        ctx.parameters = parameters
        ctx.save_for_backward(*kept, *(tensor for one in lists for tensor in one))
        return state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sums: list[Tensor | None] = [None] * len(ctx.parameters)
        saved = ctx.saved_tensors
        kept = list(zip(ctx.places, saved, strict=False))
        lists = saved[len(kept) :]
        width = len(KeptEdges._fields)
        for t, state in _reversed_states(ctx.step, kept, ctx.count, ctx.states):
            edges = KeptEdges(*lists[width * t : width * (t + 1)]).edges(state.dtype) if lists else None
            with torch.enable_grad():
                leaf = state.detach().requires_grad_()
                moved = ctx.step(leaf, edges)
                gradient, *shares = torch.autograd.grad(moved, [leaf, *ctx.parameters], gradient, allow_unused=True)
            sums = [_add(total, share) for total, share in zip(sums, shares, strict=True)]
        return None, None, None, gradient, *sums


def _reversed_states(
    step: Step, kept: list[tuple[int, Tensor]], count: int, states: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (t, X_t) from t = K − 1 to 0, stepping again to states that were not kept; at most `states` at once."""
    for t in reversed(range(count)):
        if kept[-1][0] > t:
            kept.pop()
        place, state = kept[-1]
        while place < t:
            free = states - len(kept)
            stop = place + next_kept(t + 1 - place, free + 1) if free else t
            for _ in range(stop - place):
                state = _advance(step, state, None)
            place = stop
            if free:
                kept.append((place, state))
        yield t, state


def _advance(step: Step, state: Float[Tensor, "rows 3"], edges: Edges | None) -> Float[Tensor, "rows 3"]:
    """Return the next state, cut off: the kernels of the differentiable pass, whose graph is dropped."""
    with torch.enable_grad():
        return step(state, edges).detach()


def _add(total: Tensor | None, share: Tensor | None) -> Tensor | None:
    if total is None or share is None:
        return share if total is None else total
    return total + share
