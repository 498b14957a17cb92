"""The network of a potential as TorchScript: traced with atoms and edges as inputs of any number.

A potential whose energy is a sum over atoms of what lies within its reach is traced atom by atom: every atom is taken
for a structure of its own, with the edges that leave it, and its energy is then that atom's share. Every other
potential is traced as a whole. Vectors between atoms are formed within, from positions, cell and whole-number shifts.

Refused is what other programs cannot use: forces that are no gradient, and energies that change with the periodic
image or the number of an atom, for such programs wrap and renumber. A trace keeps what the example had of sizes and
branches where it should not; `witnesses` are there to find it out. Called by `metatomic_model`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from ase import Atoms
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import one_line
from thalweg.potentials.contract import ConservativePotential, Potential
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

LAYERED = ("painn", "schnet", "equivariant")
"""Kinds whose energy is a sum over atoms that reaches layers × cutoff."""
ONE_SHELL = ("stillinger-weber", "second-moment")
"""Kinds whose energy is a sum over atoms that reaches the cutoff."""

AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far energies may differ, relative to 1 eV or the largest value; gross faults are orders above, rounding below."""

UNTRACED = (
    "a %s potential cannot be exported to metatomic: its trace does not answer as it does; write its energy with "
    "tensor operations and .shape, no len(), int() or branches on values"
)
"""What is said of a potential, by its kind, whose trace is not the potential."""


def interaction_range(potential: Potential) -> float:
    """Return how far an atom's energy reaches, Å; infinite where nothing is known of it or it is not local."""
    if potential.kind in LAYERED:
        return float(potential.settings["layers"] * potential.cutoff)
    return potential.cutoff if potential.kind in ONE_SHELL else math.inf


class Traced(nn.Module):
    """The network as a function of the tensors of one system; what is traced."""

    def __init__(self, potential: ConservativePotential) -> None:
        super().__init__()
        self.potential = potential
        self.local = math.isfinite(interaction_range(potential))

    def forward(self, positions: Tensor, cell: Tensor, pbc: Tensor, types: Tensor, listed: Tensor) -> Tensor:
        """Return energies, eV, one per atom (local) or one in all.

        Args:
            positions: Cartesian, Å, shape (atoms, 3).
            cell: lattice vectors as rows, Å, shape (3, 3).
            pbc: which directions are periodic, shape (3,).
            types: atomic numbers, any integers, shape (atoms,).
            listed: pairs in any order, whole numbers: first atom, second atom, shift of the second, shape (edges, 5).
        """
        listed = listed.to(torch.int64)
        listed = listed[torch.argsort(listed[:, 0], stable=True)]
        edges = Edges(listed[:, 0], listed[:, 1], listed[:, 2:].to(positions.dtype))
        count = positions.shape[0] if self.local else 1
        atoms = torch.arange(positions.shape[0], device=positions.device)
        structures = Structures(
            positions=positions,
            numbers=types.to(torch.int64),
            cell=cell.unsqueeze(0).expand(count, 3, 3),
            pbc=pbc.unsqueeze(0).expand(count, 3),
            owner=atoms if self.local else torch.zeros_like(atoms),
            free=torch.ones_like(positions, dtype=torch.bool),
            ids=("system",),
        )
        energy: Tensor = self.potential.energy(structures, edges)
        return energy


def witnesses(potential: Potential) -> Iterator[tuple[str, Atoms]]:
    """Yield a lone atom, a pair, clusters and cells of the known elements, in orders of their own."""
    rng = numpy_stream(3, "structures to compare an export on")
    bond = min(2.4, 0.6 * max(potential.cutoff, 2.5))
    for name, count, side in (
        ("a lone atom", 1, None),
        ("a pair", 2, None),
        ("a cluster of 7", 7, None),
        ("a cell of 1", 1, 1.1),
        ("a cell of 4", 4, 1.9),
        ("a cell of 9", 9, 2.6),
    ):
        numbers = rng.choice(potential.species, count)
        grid = [[i, j, k] for i in range(3) for j in range(3) for k in range(3)][:count]
        positions = bond * (grid + 0.08 * rng.standard_normal((count, 3)))
        cell = None if side is None else bond * (side * torch.eye(3).numpy() + 0.05 * rng.standard_normal((3, 3)))
        yield name, Atoms(numbers, positions, cell=cell, pbc=side is not None)


def require_usable(potential: Potential, dtype: torch.dtype) -> ConservativePotential:
    """Return the potential, or refuse it where other programs cannot use it.

    Args:
        potential: the potential.
        dtype: its floating type.

    Raises:
        PotentialError: its forces are no gradient, or its energy changes with images or order of the atoms.
    """
    refused = f"a {potential.kind} potential cannot be exported to metatomic"
    if not isinstance(potential, ConservativePotential):
        raise PotentialError(f"{refused}: its forces are no gradient of its energy; open it from ASE or torch-sim")
    for name, frame in witnesses(potential):
        if not frame.pbc.all():
            continue
        other = frame[::-1]
        other.positions[-1] += frame.cell[0] - frame.cell[2]
        try:
            energy, moved = (
                potential(Structures.from_atoms(atoms, dtype=dtype)).energy.item() for atoms in (frame, other)
            )
        except PotentialError:
            continue  # what it refuses here it does not answer elsewhere
        if not abs(energy - moved) <= AGREEMENT[dtype] * (1 + abs(energy)):
            raise PotentialError(
                f"{refused}: its energy changes with the order or the periodic images of the atoms ({name}: "
                f"{energy:.6g} eV, then {moved:.6g} eV), and other programs choose both; open it from ASE or torch-sim"
            )
    return potential


def trace(potential: ConservativePotential, dtype: torch.dtype) -> torch.jit.ScriptModule:
    """Return the traced network.

    Args:
        potential: what is traced.
        dtype: its floating type.

    Raises:
        PotentialError: it fails under the tracer, or refuses every structure.
    """
    frames = dict(witnesses(potential))
    network, fault = Traced(potential), ""
    for name in ("a cluster of 7", "a cell of 9", "a cell of 4", "a pair", "a lone atom"):
        structures = Structures.from_atoms(frames[name], dtype=dtype)
        edges = potential.edges(structures)
        listed = torch.cat([edges.centre[:, None], edges.neighbour[:, None], edges.shift.long()], dim=1)
        given = (structures.positions, structures.cell[0], structures.pbc[0], structures.numbers, listed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's doubts are settled by check_file
                return torch.jit.trace(network, given, check_trace=False)
        except PotentialError as error:  # too many atoms for it, or no cell
            fault = str(error)
        except Exception as error:  # tracing other people's modules raises whatever it likes
            raise PotentialError(f"{UNTRACED % potential.kind} ({one_line(error)})") from error
    raise PotentialError(
        f"a {potential.kind} potential cannot be exported to metatomic: it refuses every structure to trace it with, "
        f"the last because {fault}"
    )
