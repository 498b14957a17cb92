"""`Structures`: one frozen ragged batch of atomic structures, the value everything else takes and returns.

Atoms of all structures lie one after the other along a single axis; `owner` says to which structure an atom
belongs (ascending). Nothing is padded and nothing is wrapped: positions are Cartesian and may lie outside the
cell. Every method returns a new batch that shares the tensors it did not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_masses
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from thalweg.errors import StructureError

_MASSES = torch.tensor(atomic_masses, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Structures:
    """A batch of structures; `len()` is the number of structures."""

    positions: Float[Tensor, "atoms 3"]
    """Cartesian positions, Å; never wrapped."""
    numbers: Int[Tensor, " atoms"]
    """Atomic numbers."""
    cell: Float[Tensor, "structures 3 3"]
    """Lattice vectors as rows, Å; zero rows along directions that are not periodic are allowed."""
    pbc: Bool[Tensor, "structures 3"]
    """Whether each lattice direction is periodic."""
    owner: Int[Tensor, " atoms"]
    """Index of the structure of each atom, ascending from 0."""
    free: Bool[Tensor, "atoms 3"]
    """Which Cartesian components may move; False is fixed."""
    ids: tuple[str, ...]
    """One name per structure; random streams and records are keyed by it."""

    def __len__(self) -> int:
        return self.cell.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of positions and cell."""
        return self.positions.dtype

    @cached_property
    def counts(self) -> Int[Tensor, " structures"]:
        """Number of atoms of each structure."""
        return torch.bincount(self.owner, minlength=len(self))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each structure begins along the atom axis, and the total at the end (`structures + 1` entries)."""
        return (0, *np.cumsum(self.counts.cpu().numpy()).tolist())

    @cached_property
    def masses(self) -> Float[Tensor, " atoms"]:
        """Standard atomic masses, amu (IUPAC, as tabulated by ASE)."""
        return _MASSES.to(self.device)[self.numbers].to(self.dtype)

    def total(self, values: Float[Tensor, "atoms *rest"]) -> Float[Tensor, "structures *rest"]:
        """Sum a per-atom quantity over each structure; differentiable."""
        result = values.new_zeros((self.cell.shape[0], *values.shape[1:]))  # not len(): that is no number in a trace
        return result.index_add(0, self.owner, values)

    def with_positions(self, positions: Float[Tensor, "atoms 3"]) -> Structures:
        """Return the same structures at other positions (Å)."""
        return replace(self, positions=positions)

    def with_cell(self, cell: Float[Tensor, "structures 3 3"]) -> Structures:
        """Return the same structures with other lattice vectors (Å); positions stay where they are."""
        return replace(self, cell=cell)

    def detach(self) -> Structures:
        """Return the same structures cut off from any graph."""
        return replace(self, positions=self.positions.detach(), cell=self.cell.detach())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Structures:
        """Return the batch on a device and in a floating type; masks and indices keep their types."""
        return Structures(
            positions=self.positions.to(device=device, dtype=dtype),
            numbers=self.numbers.to(device=device),
            cell=self.cell.to(device=device, dtype=dtype),
            pbc=self.pbc.to(device=device),
            owner=self.owner.to(device=device),
            free=self.free.to(device=device),
            ids=self.ids,
        )

    def select(self, chosen: Sequence[int] | Int[Tensor, " chosen"]) -> Structures:
        """Return the chosen structures, in the order given; indices may repeat."""
        index = torch.as_tensor(chosen, dtype=torch.long, device=self.device)
        atoms = self.atoms_of(index)
        return Structures(
            positions=self.positions[atoms],
            numbers=self.numbers[atoms],
            cell=self.cell[index],
            pbc=self.pbc[index],
            owner=torch.repeat_interleave(torch.arange(len(index), device=self.device), self.counts[index]),
            free=self.free[atoms],
            ids=tuple(self.ids[i] for i in index.tolist()),
        )

    def atoms_of(self, chosen: Sequence[int] | Int[Tensor, " chosen"]) -> Int[Tensor, " chosen_atoms"]:
        """Return the positions along the atom axis of the atoms of the chosen structures, in that order."""
        index = torch.as_tensor(chosen, dtype=torch.long, device=self.device)
        counts = self.counts[index]
        starts = torch.as_tensor(self.offsets[:-1], device=self.device)[index]
        before = torch.cumsum(counts, 0) - counts  # where each chosen structure begins in the result
        return torch.arange(int(counts.sum()), device=self.device) + torch.repeat_interleave(starts - before, counts)

    @staticmethod
    def concatenate(batches: Sequence[Structures]) -> Structures:
        """Join batches along the structure axis.

        Raises:
            StructureError: if there is no batch.
        """
        if not batches:
            raise StructureError("cannot join an empty list of batches of structures: give at least one")
        shift = np.cumsum([0, *(len(b) for b in batches)])
        return Structures(
            positions=torch.cat([b.positions for b in batches]),
            numbers=torch.cat([b.numbers for b in batches]),
            cell=torch.cat([b.cell for b in batches]),
            pbc=torch.cat([b.pbc for b in batches]),
            owner=torch.cat([b.owner + int(s) for b, s in zip(batches, shift, strict=False)]),
            free=torch.cat([b.free for b in batches]),
            ids=tuple(i for b in batches for i in b.ids),
        )

    @staticmethod
    def from_atoms(
        atoms: Atoms | Sequence[Atoms],
        *,
        ids: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Structures:
        """Read ASE Atoms into a batch.

        Args:
            atoms: one or several `ase.Atoms`; `FixAtoms` and `FixCartesian` become the free mask.
            ids: one name per structure; by default `info["id"]`, else the index.
            dtype: floating type of positions and cell.

        Raises:
            StructureError: no structure, an empty one, a position or cell that is not finite, a periodic
                cell without volume, or a constraint that is neither FixAtoms nor FixCartesian.
        """
        frames = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        if not frames:
            raise StructureError("no structures given: at least one is needed")
        names = [str(a.info.get("id", i)) for i, a in enumerate(frames)] if ids is None else [str(i) for i in ids]
        for name, frame in zip(names, frames, strict=True):
            _check(frame, name)
        counts = torch.tensor([len(a) for a in frames])
        free = np.concatenate([_free_mask(a, n) for a, n in zip(frames, names, strict=True)])
        return Structures(
            positions=torch.tensor(np.concatenate([a.positions for a in frames]), dtype=dtype),
            numbers=torch.tensor(np.concatenate([a.numbers for a in frames]), dtype=torch.long),
            cell=torch.tensor(np.stack([a.cell.array for a in frames]), dtype=dtype),
            pbc=torch.tensor(np.stack([a.pbc for a in frames])),
            owner=torch.repeat_interleave(torch.arange(len(frames)), counts),
            free=torch.tensor(free),
            ids=tuple(names),
        )

    def to_atoms(self) -> list[Atoms]:
        """Return one `ase.Atoms` per structure, with `info["id"]` and the constraints of the free mask."""
        positions = self.positions.detach().cpu().double().numpy()
        numbers, free = self.numbers.cpu().numpy(), self.free.cpu().numpy()
        cell, pbc = self.cell.detach().cpu().double().numpy(), self.pbc.cpu().numpy()
        frames = []
        for k, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            frame = Atoms(numbers[start:stop], positions[start:stop], cell=cell[k], pbc=pbc[k])
            frame.info["id"] = self.ids[k]
            frame.set_constraint(_constraints(free[start:stop]))
            frames.append(frame)
        return frames


def _check(frame: Atoms, name: str) -> None:
    if len(frame) == 0:
        raise StructureError(f"structure {name!r} has no atoms: remove it or mend the file")
    if not np.isfinite(frame.positions).all():
        atom = int(np.argwhere(~np.isfinite(frame.positions))[0, 0])
        raise StructureError(
            f"structure {name!r}: position of atom {atom} is {frame.positions[atom]}, not finite: "
            "mend the file or leave the structure out"
        )
    cell = frame.cell.array
    if not np.isfinite(cell).all():
        raise StructureError(
            f"structure {name!r}: the cell has entries that are not finite: {cell.tolist()}: "
            "mend the file or leave the structure out"
        )
    lengths = np.linalg.norm(cell, axis=1)
    if frame.pbc.any() and (
        (lengths[frame.pbc] < 1e-6).any() or abs(np.linalg.det(frame.cell.complete().array)) < 1e-6
    ):
        raise StructureError(
            f"structure {name!r}: periodic along {frame.pbc.tolist()} but the cell has no volume: {cell.tolist()}; "
            "give three independent lattice vectors or set pbc to F"
        )


def _free_mask(frame: Atoms, name: str) -> np.ndarray:
    free = np.ones((len(frame), 3), dtype=bool)
    for constraint in frame.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
        else:
            raise StructureError(
                f"structure {name!r}: constraint {type(constraint).__name__} is not supported; "
                "allowed: FixAtoms, FixCartesian"
            )
    return free


def _constraints(free: np.ndarray) -> list[FixAtoms | FixCartesian]:
    fixed = ~free
    whole: NDArray[np.bool_] = np.asarray(fixed.all(axis=1))
    found: list[FixAtoms | FixCartesian] = [FixAtoms(np.flatnonzero(whole))] if whole.any() else []
    partial: NDArray[np.bool_] = np.logical_and(fixed, ~whole[:, None])
    patterns = np.unique(partial[np.flatnonzero(partial.sum(axis=1))], axis=0)
    found.extend(FixCartesian(np.flatnonzero((partial == pattern).all(axis=1)), mask=pattern) for pattern in patterns)
    return found
