"""What a potential sees of one structure: how strongly each atom listens to each other, by one measure or several.

    response     |∂F_i/∂x_j|    how the force on i answers when j moves, eV/Å²; of every potential
    attention    a_ij           share of what i gathers that comes from j, by layer and head; of a transformer

A transformer passes messages on a complete graph whose edges it has learned: a_ij are those edges, taken from the
forward pass itself. The response goes beyond the cutoff where messages are passed more than once. Rows listen,
columns are listened to. Drawn by `reports.attention_page`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential
from thalweg.potentials.fully_connected import FullyConnected
from thalweg.potentials.transformer import Attention, Transformer
from thalweg.structures.batch import Structures

MOST_ATOMS = 500
"""Largest structure that is looked at: tables of all pairs grow with the square."""


@dataclass(frozen=True, eq=False)
class Measure:
    """One measure of who listens to whom."""

    name: str
    """E.g. `layer 1, head 2`."""
    unit: str
    """Empty for shares."""
    weights: Float[np.ndarray, "atoms atoms"]
    """Row i listens to column j; never negative."""
    rows_sum_to_one: bool
    """Whether a row is a division of one."""


@dataclass(frozen=True, eq=False)
class View:
    """What a potential sees of one structure."""

    kind: str
    """Kind of the potential."""
    id: str
    """Name of the structure."""
    atoms: Atoms
    """The structure."""
    measures: tuple[Measure, ...]
    """Attention first, where there is any."""
    reach: float | None
    """Range within which pairs are edges of its graph, Å; None where every atom listens to every other."""


def view(potential: Potential, structures: Structures, index: int = 0) -> View:
    """Look at one structure as a potential does.

    Args:
        potential: whichever.
        structures: the batch it is in, in any floating type.
        index: which one.

    Raises:
        PotentialError: no structure of that number, one too large to draw, or one that the potential cannot describe.
    """
    if not 0 <= index < len(structures):
        raise PotentialError(
            f"index is {index}: there are {len(structures)} structures, allowed is 0 to {len(structures) - 1}"
        )
    one = structures.select([index]).to(dtype=next(potential.parameters()).dtype)
    if len(one.positions) > MOST_ATOMS:
        raise PotentialError(
            f"structure {one.ids[0]!r} has {len(one.positions)} atoms: allowed is up to {MOST_ATOMS}, for every pair "
            "is shown; choose a smaller one with --index"
        )
    potential.check(one)
    everywhere = isinstance(potential, Transformer | FullyConnected)
    measures = [Measure("response of forces", "eV/Å²", _plain(force_response(potential, one)), False)]
    if isinstance(potential, Transformer):
        shares = attention(potential, one)
        measures = [
            Measure(f"layer {n + 1}, head {k + 1}", "", _plain(shares[n, k]), True)
            for n in range(shares.shape[0])
            for k in range(shares.shape[1])
        ] + measures
    reach = None if everywhere else potential.cutoff
    return View(potential.kind, one.ids[0], one.to_atoms()[0], tuple(measures), reach)


def attention(potential: Transformer, structure: Structures) -> Float[Tensor, "layers heads atoms atoms"]:
    """Return the attention of every layer and head in one forward pass; every row sums to one.

    Args:
        potential: the transformer.
        structure: one structure in its floating type.
    """
    found: list[Tensor] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, Attention):
            found.append(module.shares(*inputs)[0])

    handles = [layer.get_submodule("attention").register_forward_pre_hook(keep) for layer in potential.layers]
    try:
        potential(structure)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found).detach()


def force_response(potential: Potential, structure: Structures) -> Float[Tensor, "atoms atoms"]:
    """Return |∂F_i/∂x_j| (Frobenius norm of a 3 × 3 block, eV/Å²), three backward passes an atom.

    Args:
        potential: whichever gives differentiable forces.
        structure: one structure in its floating type.
    """
    positions = structure.positions.detach().clone().requires_grad_()
    forces = potential(structure.with_positions(positions), graph=True).forces
    rows = []
    for atom in range(len(positions)):
        blocks = [
            torch.autograd.grad(forces[atom, axis], positions, retain_graph=True, allow_unused=True)[0]
            for axis in range(3)
        ]
        squares = [torch.zeros_like(positions) if block is None else block.square() for block in blocks]
        rows.append(torch.stack(squares).sum(dim=(0, 2)).sqrt())
    return torch.stack(rows)


def _plain(weights: Tensor) -> Float[np.ndarray, "atoms atoms"]:
    found: Float[np.ndarray, "atoms atoms"] = weights.detach().double().cpu().numpy()
    return found
