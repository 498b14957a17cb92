"""Frames of unequal sizes for the tests of the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import write_frames
from thalweg.structures.pairs import Frames
from thalweg.structures.store import Store, convert, open_store


def frames(sizes: list[int], seed: int, *, stress: bool = False, fixed: bool = False, parents: int = 3) -> Frames:
    """Return frames of these sizes on a loose lattice (no atoms overlap), with made-up labels."""
    stream = numpy_stream(seed, "ragged frames")
    total, count = sum(sizes), len(sizes)
    sites = np.concatenate([3.0 * np.argwhere(np.ones((6, 6, 6)))[:n] for n in sizes])
    free = np.ones((total, 3), dtype=bool)
    if fixed:
        free = stream.random((total, 3)) < 0.8
        free[0, 0] = False
    stresses = stream.standard_normal((count, 3, 3))
    structures = Structures(
        positions=torch.tensor(sites + 0.3 * stream.standard_normal((total, 3))),
        numbers=torch.tensor(stream.integers(1, 90, total)),
        cell=torch.tensor(20.0 * np.eye(3) + 0.5 * stream.standard_normal((count, 3, 3))),
        pbc=torch.tensor(stream.random((count, 3)) < 0.5),
        owner=torch.repeat_interleave(torch.arange(count), torch.tensor(sizes)),
        free=torch.tensor(free),
        ids=tuple(f"{seed}/Å {k}" for k in range(count)),
    )
    return Frames(
        structures,
        torch.tensor(stream.standard_normal(count) * 1e4),
        torch.tensor(stream.standard_normal((total, 3))),
        tuple(f"parent {stream.integers(parents)}" for _ in range(count)),
        torch.tensor((stresses + stresses.transpose(0, 2, 1)) / 2) if stress else None,
    )


def stored(folder: Path, some: Frames, name: str = "store") -> Store:
    """Return frames as a store in double precision, through a file of extended XYZ."""
    write_frames(folder / f"{name}.extxyz", some)
    convert(folder / f"{name}.extxyz", folder / name, dtype="float64", part=4)
    return open_store(folder / name)


def same(a: Frames, b: Frames) -> bool:
    """Return whether two sets of frames are the same, bit for bit."""
    tensors = [
        (s.positions, s.numbers, s.cell, s.pbc, s.owner, s.free, f.energy, f.forces)
        for f, s in ((a, a.structures), (b, b.structures))
    ]
    if (a.stress is None) != (b.stress is None) or a.ids != b.ids or a.parents != b.parents:
        return False
    if a.stress is not None and b.stress is not None and not a.stress.allclose(b.stress, 0, 0, equal_nan=True):
        return False
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(*tensors, strict=True))
