"""Reading structures of any kind that ASE reads, with one clear line for what cannot be used."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from ase import Atoms
from ase.io import read
from ase.io.formats import UnknownFileTypeError

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.overlap import refuse_overlaps


def read_structures(path: str | Path, *, dtype: torch.dtype = torch.float64) -> Structures:
    """Read every structure of a file.

    Args:
        path: a file in any format that ASE recognises.
        dtype: floating type of positions and cell.

    Raises:
        StructureError: no such file, a format that ASE does not recognise or a damaged file, no structure in it,
            or one that cannot be used (see `Structures.from_atoms`); overlapping atoms.
    """
    path = Path(path)
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise StructureError(f"{path}: {what}; give a file of structures, e.g. extended XYZ, POSCAR or CIF")
    if path.stat().st_size == 0:
        raise StructureError(f"{path}: the file is empty; give a file with at least one structure")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers warn of what does not concern positions and cells
            frames = read(path, index=":")
    except UnknownFileTypeError:
        raise StructureError(
            f"{path}: neither its name nor its content tells the format; rename it, e.g. to {path.stem}.extxyz"
        ) from None
    except Exception as error:  # ASE's readers raise whatever their parsers meet; all of it means one thing
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StructureError(f"{path}: cannot be read as structures ({reason}); mend or convert the file") from None
    found = [frames] if isinstance(frames, Atoms) else list(frames)
    try:
        structures = Structures.from_atoms(found, dtype=dtype)
        refuse_overlaps(structures)
    except StructureError as error:
        raise StructureError(f"{path}: {error}") from None
    return structures
