"""Writing relaxations: extended XYZ with the outcome, the steps and the largest force of every structure."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from ase.io import write

from thalweg.relaxation.loop import Relaxation
from thalweg.storage import atomic_write


def write_relaxation(path: str | Path, relaxation: Relaxation, *, overwrite: bool = False) -> None:
    """Write where each structure ended; `outcome`, `steps`, `fmax` (eV/Å), `potential_energy` (eV) stand beside it.

    Raises:
        OutputError: the file exists and `overwrite` is False, or it cannot be written.
    """
    frames = relaxation.structures.to_atoms()
    for k, frame in enumerate(frames):
        frame.info["outcome"] = relaxation.outcomes[k].label
        frame.info["steps"] = int(relaxation.steps[k])
        frame.info["fmax"] = float(relaxation.fmax[k])
        frame.info["potential_energy"] = float(relaxation.energy[k])
    stream = StringIO()
    write(stream, frames, format="extxyz")
    atomic_write(path, stream.getvalue(), overwrite=overwrite)
