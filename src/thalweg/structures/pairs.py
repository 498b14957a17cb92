"""What is learnt from: `Pairs` (start, reference minimum) for relaxation, `Frames` with labels for forces.

A pair's two structures share id, atoms and their order. `parent` names what a pair or frame was made from
(the defect, the crystal); splits never put one parent on both sides, or the test would repeat the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.errors import StructureError, nearest_known
from thalweg.structures.batch import Structures
from thalweg.structures.split import split_parents

_Part = TypeVar("_Part")
_SAME_CELL = 1e-3  # Å; files round cells to fewer digits than memory holds


@dataclass(frozen=True, eq=False)
class Pairs:
    """Starts and the minima that a reference relaxed them to; `len()` is the number of pairs."""

    starts: Structures
    """Where each relaxation began."""
    minima: Structures
    """Where the reference ended: same ids, same atoms in the same order."""
    parents: tuple[str, ...]
    """What each pair was made from."""
    energy_start: Float[Tensor, " pairs"] | None = None
    """Reference energy of the start, eV; NaN where unknown, None where unknown for all."""
    energy_minimum: Float[Tensor, " pairs"] | None = None
    """Reference energy of the minimum, eV; NaN where unknown, None where unknown for all."""
    forces_start: Float[Tensor, "atoms 3"] | None = None
    """Reference forces at the start, eV/Å; rows of NaN where unknown, None where unknown for all."""

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.minima) or len(self.parents) != len(self.starts):
            raise StructureError(
                f"{len(self.starts)} starts, {len(self.minima)} minima and {len(self.parents)} parents: "
                "a pair needs one of each"
            )
        if self.starts.ids != self.minima.ids:
            first = next(k for k, name in enumerate(self.starts.ids) if name != self.minima.ids[k])
            raise StructureError(
                f"start {self.starts.ids[first]!r} stands beside minimum {self.minima.ids[first]!r}: "
                "the two of a pair have one id; put them in the same order"
            )
        for k, name in enumerate(self.starts.ids):
            ours = self.starts.numbers[self.starts.offsets[k] : self.starts.offsets[k + 1]]
            theirs = self.minima.numbers[self.minima.offsets[k] : self.minima.offsets[k + 1]]
            refuse_other_atoms(name, ours, theirs)
            if not torch.equal(self.starts.pbc[k], self.minima.pbc[k]):
                raise StructureError(
                    f"pair {name!r}: periodic along {self.starts.pbc[k].tolist()} in the start and "
                    f"{self.minima.pbc[k].tolist()} in the minimum: give both alike"
                )

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ids(self) -> tuple[str, ...]:
        """One name per pair."""
        return self.starts.ids

    def select(self, chosen: Sequence[int] | Int[Tensor, " chosen"]) -> Pairs:
        """Return the chosen pairs, in the order given."""
        index = torch.as_tensor(chosen, dtype=torch.long)
        return Pairs(
            starts=self.starts.select(index),
            minima=self.minima.select(index),
            parents=tuple(self.parents[k] for k in index.tolist()),
            energy_start=_rows(self.energy_start, index),
            energy_minimum=_rows(self.energy_minimum, index),
            forces_start=_rows(self.forces_start, self.starts.atoms_of(index)),
        )

    def with_ids(self, ids: Sequence[str]) -> Pairs:
        """Return the pairs of these ids, in the order given.

        Raises:
            StructureError: an id that no pair has.
        """
        return self.select(_places(ids, self.ids, "pair"))

    def split_by_parent(self, held_out: float | int, seed: int) -> tuple[Pairs, Pairs]:
        """Return (kept, held out); all pairs of one parent are on one side. See `split_parents`."""
        kept, held = split_parents(self.parents, held_out, seed)
        return self.select(kept), self.select(held)

    def split_by_pair(self, held_out: float | int, seed: int) -> tuple[Pairs, Pairs]:
        """Return (kept, held out) with pairs of one parent possibly on both sides.

        For sets with a single parent, where nothing else can be held out: what is then measured is how far a
        potential carries from some starts of a defect to others of the same, not to another defect.
        """
        kept, held = split_parents(self.ids, held_out, seed)
        return self.select(kept), self.select(held)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pairs:
        """Return the pairs on a device and in a floating type."""
        return replace(
            self,
            starts=self.starts.to(device, dtype),
            minima=self.minima.to(device, dtype),
            energy_start=_moved(self.energy_start, device, dtype),
            energy_minimum=_moved(self.energy_minimum, device, dtype),
            forces_start=_moved(self.forces_start, device, dtype),
        )

    @staticmethod
    def concatenate(parts: Sequence[Pairs]) -> Pairs:
        """Join sets of pairs; a label that only some of them have is NaN in the others.

        Raises:
            StructureError: there is none, or an id occurs twice.
        """
        joined = Pairs(
            starts=Structures.concatenate([p.starts for p in parts]),
            minima=Structures.concatenate([p.minima for p in parts]),
            parents=tuple(parent for p in parts for parent in p.parents),
            energy_start=_joined(parts, lambda p: p.energy_start, lambda p: p.starts.cell[:, 0, 0]),
            energy_minimum=_joined(parts, lambda p: p.energy_minimum, lambda p: p.starts.cell[:, 0, 0]),
            forces_start=_joined(parts, lambda p: p.forces_start, lambda p: p.starts.positions),
        )
        refuse_duplicates(joined.ids, "pair")
        return joined


@dataclass(frozen=True, eq=False)
class Frames:
    """Structures with reference energies and forces, for force matching; `len()` is the number of frames."""

    structures: Structures
    """The configurations."""
    energy: Float[Tensor, " frames"]
    """Reference energies, eV."""
    forces: Float[Tensor, "atoms 3"]
    """Reference forces, eV/Å."""
    parents: tuple[str, ...]
    """What each frame was made from."""
    stress: Float[Tensor, "frames 3 3"] | None = None
    """Reference stress, eV/Å³, positive under tension; NaN where unknown, None where unknown for all."""

    def __post_init__(self) -> None:
        frames, atoms = len(self.structures), len(self.structures.numbers)
        if len(self.parents) != frames or self.energy.shape != (frames,) or self.forces.shape != (atoms, 3):
            raise StructureError(
                f"{frames} structures of {atoms} atoms with {len(self.parents)} parents, energies of shape "
                f"{tuple(self.energy.shape)} and forces of shape {tuple(self.forces.shape)}: give one parent "
                "and energy per structure and one force per atom"
            )

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def ids(self) -> tuple[str, ...]:
        """One name per frame."""
        return self.structures.ids

    def select(self, chosen: Sequence[int] | Int[Tensor, " chosen"]) -> Frames:
        """Return the chosen frames, in the order given."""
        index = torch.as_tensor(chosen, dtype=torch.long)
        return Frames(
            structures=self.structures.select(index),
            energy=self.energy[index],
            forces=self.forces[self.structures.atoms_of(index)],
            parents=tuple(self.parents[k] for k in index.tolist()),
            stress=_rows(self.stress, index),
        )

    def with_ids(self, ids: Sequence[str]) -> Frames:
        """Return the frames of these ids, in the order given.

        Raises:
            StructureError: an id that no frame has.
        """
        return self.select(_places(ids, self.ids, "frame"))

    def split_by_parent(self, held_out: float | int, seed: int) -> tuple[Frames, Frames]:
        """Return (kept, held out); all frames of one parent are on one side. See `split_parents`."""
        kept, held = split_parents(self.parents, held_out, seed)
        return self.select(kept), self.select(held)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Frames:
        """Return the frames on a device and in a floating type."""
        return replace(
            self,
            structures=self.structures.to(device, dtype),
            energy=self.energy.to(device=device, dtype=dtype),
            forces=self.forces.to(device=device, dtype=dtype),
            stress=_moved(self.stress, device, dtype),
        )

    @staticmethod
    def concatenate(parts: Sequence[Frames]) -> Frames:
        """Join sets of frames; where only some have a stress it is NaN in the others.

        Raises:
            StructureError: there is none, or an id occurs twice.
        """
        joined = Frames(
            structures=Structures.concatenate([p.structures for p in parts]),
            energy=torch.cat([p.energy for p in parts]),
            forces=torch.cat([p.forces for p in parts]),
            parents=tuple(parent for p in parts for parent in p.parents),
            stress=_joined(parts, lambda p: p.stress, lambda p: p.structures.cell),
        )
        refuse_duplicates(joined.ids, "frame")
        return joined


def refuse_other_atoms(name: str, start: Int[Tensor, " atoms"], minimum: Int[Tensor, " atoms_too"]) -> None:
    """Refuse a pair whose two structures differ in their atoms.

    Raises:
        StructureError: naming the pair and the first atom that differs.
    """
    if len(start) != len(minimum):
        raise StructureError(
            f"pair {name!r}: the start has {len(start)} atoms and the minimum {len(minimum)}: give the same atoms"
        )
    if not torch.equal(start, minimum):
        atom = int((start != minimum).nonzero()[0])
        raise StructureError(
            f"pair {name!r}: atom {atom} has atomic number {int(start[atom])} in the start and "
            f"{int(minimum[atom])} in the minimum: give both in one order"
        )


def refuse_strained(pairs: Pairs) -> None:
    """Refuse pairs whose start and minimum have different cells, for a path that keeps the cell.

    Raises:
        StructureError: naming the first such pair and by how much its cells differ.
    """
    apart = (pairs.starts.cell - pairs.minima.cell).abs().amax(dim=(1, 2))
    for k in (apart > _SAME_CELL).nonzero().squeeze(1).tolist()[:1]:
        raise StructureError(
            f"pair {pairs.ids[k]!r}: the cells of start and minimum differ by {float(apart[k]):.3g} Å, "
            f"allowed is {_SAME_CELL} Å where the path keeps the cell: relax it too, with relaxation.cell=free "
            "(cell=free on the command line)"
        )


def refuse_duplicates(ids: Sequence[str], what: str) -> None:
    """Refuse a list of names in which one occurs twice.

    Raises:
        StructureError: naming it and both places.
    """
    seen: dict[str, int] = {}
    for k, name in enumerate(ids):
        if name in seen:
            raise StructureError(f"{what} id {name!r} occurs at {seen[name]} and {k}: give each its own id")
        seen[name] = k


def _places(ids: Sequence[str], known: Sequence[str], what: str) -> list[int]:
    place = {name: k for k, name in enumerate(known)}
    for name in ids:
        if name not in place:
            raise StructureError(f"there is no {what} {name!r} among {len(known)}; {nearest_known(name, known[:50])}")
    return [place[name] for name in ids]


def _rows(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else values[index]


def _moved(values: Tensor | None, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor | None:
    return None if values is None else values.to(device=device, dtype=dtype)


def _joined(
    parts: Sequence[_Part], label: Callable[[_Part], Tensor | None], like: Callable[[_Part], Tensor]
) -> Tensor | None:
    found = [label(p) for p in parts]
    if all(value is None for value in found):
        return None
    return torch.cat(
        [torch.full_like(like(p).detach(), torch.nan) if v is None else v for p, v in zip(parts, found, strict=True)]
    )
