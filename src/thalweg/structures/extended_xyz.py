"""Pairs and frames in extended XYZ; the schema is in docs/data-format.md.

A pair is two blocks of one file (`pair=<id> role=start|minimum`), a frame is one block with energy and
forces. Numbers are written so that they read back exactly. Every fault of a file is one line that names file
and block.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thalweg.errors import OutputError, StructureError
from thalweg.storage import atomic_write
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs, refuse_duplicates, refuse_other_atoms
from thalweg.structures.xyz_blocks import Block, block_text, read_blocks

_ROLES = ("start", "minimum")


def read_pairs(path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float64) -> Pairs:
    """Read the pairs of an extended XYZ file, in the order in which their ids first occur.

    Args:
        path: the file.
        dtype: floating type of positions, cells and labels.

    Returns:
        The pairs; a pair without `parent` is its own parent.

    Raises:
        StructureError: the file cannot be read, a block is broken (cut short, position not finite, cell
        without
            volume, atoms closer than 0.3 Å), a role or id is missing or doubled, a start has no minimum or
            the reverse, or the two differ in their atoms.
    """
    found: dict[str, dict[str, Block]] = {}
    for block in read_blocks(path, dtype):
        name, role = block.word("pair"), block.word("role")
        if role not in _ROLES:
            raise block.error(f"role is {role!r}: allowed are start and minimum")
        roles = found.setdefault(name, {})
        if role in roles:
            raise block.error(f"pair {name!r} has a second {role}; the first is frame {roles[role].index}")
        roles[role] = block
    for name, roles in found.items():
        for role, other in (_ROLES, _ROLES[::-1]):
            if role not in roles:
                raise roles[other].error(f"pair {name!r} has a {other} but no {role}: add it or remove the {other}")
        try:
            refuse_other_atoms(name, roles["start"].structure.numbers, roles["minimum"].structure.numbers)
        except StructureError as error:
            raise roles["minimum"].error(str(error)) from error
    try:
        return _pairs_of([(name, r["start"], r["minimum"]) for name, r in found.items()], dtype)
    except StructureError as error:
        raise StructureError(f"{os.fspath(path)}: {error}") from error


def read_frames(path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float64) -> Frames:
    """Read labelled frames for force matching from an extended XYZ file.

    Args:
        path: the file.
        dtype: floating type of positions, cells and labels.

    Returns:
        The frames; one without `id` is called after its place (`frame-000007`), one without `parent` is its
        own.

    Raises:
        StructureError: as `read_pairs`, or a block lacks energy or forces, or an id occurs twice.
    """
    return frames_of(path, list(read_blocks(path, dtype)), dtype)


def frames_of(path: str | os.PathLike[str], blocks: Sequence[Block], dtype: torch.dtype) -> Frames:
    """Make labelled frames of blocks that were read; see `read_frames`.

    Args:
        path: the file that they are of, for messages.
        blocks: at least one.
        dtype: floating type of the blocks.

    Raises:
        StructureError: a block lacks energy or forces, or an id occurs twice.
    """
    names = [block.words.get("id", f"frame-{block.index:06d}") for block in blocks]
    for block in blocks:
        for label, value in (("energy", block.energy), ("forces", block.forces)):
            if value is None:
                raise block.error(f"no {label}: force matching needs energy and forces in every frame")
    try:
        refuse_duplicates(names, "frame")
    except StructureError as error:
        raise StructureError(f"{os.fspath(path)}: {error}") from error
    structures = Structures.concatenate([b.structure for b in blocks])
    return Frames(
        structures=_renamed(structures, names),
        energy=torch.tensor([b.energy for b in blocks], dtype=dtype),
        forces=torch.cat([b.forces for b in blocks if b.forces is not None]),
        parents=tuple(b.words.get("parent", name) for b, name in zip(blocks, names, strict=True)),
        stress=_labels([b.stress for b in blocks], [b.structure.cell[0] for b in blocks], stack=True),
    )


def write_pairs(path: str | os.PathLike[str], pairs: Pairs, *, overwrite: bool = False) -> None:
    """Write pairs to an extended XYZ file, whole or not at all; labels that are unknown are left out.

    Args:
        path: where to.
        pairs: what to write.
        overwrite: replace a file that is there.

    Raises:
        OutputError: the file exists, cannot be written, or an id occurs twice or holds a line break.
    """
    _refuse_unreadable(path, pairs.ids)
    blocks = []
    sides = (("start", pairs.starts, pairs.energy_start), ("minimum", pairs.minima, pairs.energy_minimum))
    for k, name in enumerate(pairs.ids):
        for role, side, energy in sides:
            blocks.append(
                block_text(
                    side,
                    k,
                    words={"pair": name, "role": role, "parent": pairs.parents[k]},
                    energy=None if energy is None else energy[k],
                    forces=_of(side, pairs.forces_start, k) if role == "start" else None,
                )
            )
    atomic_write(path, "".join(blocks), overwrite=overwrite)


def write_frames(path: str | os.PathLike[str], frames: Frames, *, overwrite: bool = False) -> None:
    """Write labelled frames to an extended XYZ file, whole or not at all; see `write_pairs`."""
    _refuse_unreadable(path, frames.ids)
    blocks = [
        block_text(
            frames.structures,
            k,
            words={"id": name, "parent": frames.parents[k]},
            energy=frames.energy[k],
            forces=_of(frames.structures, frames.forces, k),
            stress=None if frames.stress is None else frames.stress[k],
        )
        for k, name in enumerate(frames.ids)
    ]
    atomic_write(path, "".join(blocks), overwrite=overwrite)


def _pairs_of(found: Sequence[tuple[str, Block, Block]], dtype: torch.dtype) -> Pairs:
    names = [name for name, _, _ in found]
    starts, minima = [start for _, start, _ in found], [minimum for _, _, minimum in found]
    return Pairs(
        starts=_renamed(Structures.concatenate([b.structure for b in starts]), names),
        minima=_renamed(Structures.concatenate([b.structure for b in minima]), names),
        parents=tuple(start.words.get("parent", minimum.words.get("parent", name)) for name, start, minimum in found),
        energy_start=_energies(starts, dtype),
        energy_minimum=_energies(minima, dtype),
        forces_start=_labels([b.forces for b in starts], [b.structure.positions for b in starts], stack=False),
    )


def _renamed(structures: Structures, names: Sequence[str]) -> Structures:
    return replace(structures, ids=tuple(names))


def _energies(blocks: Sequence[Block], dtype: torch.dtype) -> Tensor | None:
    if all(block.energy is None for block in blocks):
        return None
    return torch.tensor([torch.nan if b.energy is None else b.energy for b in blocks], dtype=dtype)


def _labels(values: Sequence[Tensor | None], like: Sequence[Tensor], *, stack: bool) -> Tensor | None:
    """Join labels along the first axis, or along a new one, with NaN where there is none."""
    if all(value is None for value in values):
        return None
    filled = [torch.full_like(x, torch.nan) if v is None else v for v, x in zip(values, like, strict=True)]
    return torch.stack(filled) if stack else torch.cat(filled)


def _of(structures: Structures, values: Tensor | None, k: int) -> Tensor | None:
    return None if values is None else values[structures.offsets[k] : structures.offsets[k + 1]]


def _refuse_unreadable(path: str | os.PathLike[str], ids: Sequence[str]) -> None:
    try:
        refuse_duplicates(ids, "structure")
    except StructureError as error:
        raise OutputError(f"cannot write {os.fspath(path)}: {error}") from error
