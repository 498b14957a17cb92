"""The whole way of a user with another package's potential, command by command, on a few atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from tests.cli.terminal import thalweg

from thalweg.potentials.files import load_potential
from thalweg.potentials.opening import open_potential
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import write_pairs
from thalweg.structures.pairs import Pairs


def few_pairs(frames: Sequence[Atoms], folder: Path, amplitude: float = 0.08) -> Path:
    """Write pairs whose minima are the frames and whose starts are rattled copies; return the file."""
    starts = [frame.copy() for frame in frames]
    for k, start in enumerate(starts):
        noise = numpy_stream(11, "pairs of an adapter", k).standard_normal(start.positions.shape)
        start.positions += amplitude * noise
    ids = [f"pair {k}" for k in range(len(starts))]
    minima = Structures.from_atoms(frames, ids=ids)
    write_pairs(folder / "pairs.extxyz", Pairs(Structures.from_atoms(starts, ids=ids), minima, tuple(ids)))
    return folder / "pairs.extxyz"


def sheared() -> list[Atoms]:
    """Return two primitive cells of silicon so deformed that no symmetry holds their minima in place."""
    frames = [bulk("Si"), bulk("Si", a=5.5)]
    shear = np.eye(3) + np.array([[0.0, 0.05, 0.0], [0.0, 0.0, 0.02], [0.04, 0.0, 0.0]])
    for frame in frames:
        frame.set_cell(frame.cell.array @ shear, scale_atoms=True)
    return frames


def relaxes(words: str, pairs: Path, folder: Path) -> None:
    """Require that `thalweg relax` ends every start converged."""
    done = thalweg("relax", words, pairs, "--out", folder / "relaxed.extxyz")
    assert done.status == 0, done.err
    found = read(folder / "relaxed.extxyz", index=":")
    assert len(found) > 0
    assert f"\n{len(found)} converged: " in f"\n{done.out}", done.out


def is_certified(words: str, pairs: Path | None, steps: int = 6) -> str:
    """Require that `thalweg verify` passes; return what it said."""
    done = thalweg("verify", words, *([] if pairs is None else [pairs]), "--count", 1, "--steps", steps)
    print(done.out)  # the figures, by pytest -rP
    assert done.status == 0, done.out + done.err
    return done.out


def tunes(words: str, pairs: Path, folder: Path, *overrides: str) -> None:
    """Require that two updates change the parameters, and that the tuned file opens and says the same again."""
    told = ["route.kind=split", "route.horizon=2", "relaxation.steps=6", "optimiser.updates=2"]
    told += ["optimiser.batch=2", "optimiser.warmup=1"]
    done = thalweg("tune", words, pairs, f"out={folder / 'tuned'}", *told, *overrides)
    assert done.status == 0, done.err
    first, tuned = open_potential(words), load_potential(folder / "tuned" / "model.safetensors")
    assert type(tuned) is type(first)
    moved = [not torch.equal(a, b) for a, b in zip(first.parameters(), tuned.parameters(), strict=True)]
    assert any(moved), "no parameter changed"
    again = load_potential(folder / "tuned" / "model.safetensors")
    start = Structures.from_atoms(read(pairs, index="0"), dtype=next(tuned.parameters()).dtype)
    assert torch.equal(again(start).forces, tuned(start).forces)
    assert not torch.equal(first(start).forces, tuned(start).forces)
