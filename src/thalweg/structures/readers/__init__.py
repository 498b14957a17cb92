"""Readers of pairs and frames, tried in the order of `READERS`; each is one file here and one line in that list."""

from __future__ import annotations

import os
from pathlib import Path

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.readers.ase_json import AseJson
from thalweg.structures.readers.ase_lmdb import AseLmdb
from thalweg.structures.readers.ase_sqlite import AseSqlite
from thalweg.structures.readers.ase_traj import AseTrajectory
from thalweg.structures.readers.cif import Cif
from thalweg.structures.readers.contract import FMAX, Imported, ImportedFrames, ImportRules, Reader
from thalweg.structures.readers.extxyz import ExtendedXyz
from thalweg.structures.readers.ocp_lmdb import OcpLmdb
from thalweg.structures.readers.pymatgen_json import PymatgenJson
from thalweg.structures.readers.vasp_folders import VaspFolders
from thalweg.structures.readers.vasp_output import VaspOutput

READERS: tuple[Reader, ...] = (
    ExtendedXyz(),
    AseTrajectory(),
    AseSqlite(),
    AseLmdb(),
    OcpLmdb(),
    VaspFolders(),
    VaspOutput(),
    AseJson(),
    PymatgenJson(),
    Cif(),
)
"""Every reader; joining this list puts one under the contract tests."""


def import_pairs(path: str | os.PathLike[str], *, fmax: float = FMAX, skip_broken: bool = False) -> Imported:
    """Read pairs with the first reader that recognises the path.

    Args:
        path: a file or folder.
        fmax: largest force (eV/Å) on a free coordinate at which the end of a relaxation counts as its minimum.
        skip_broken: leave broken frames out and count them, instead of refusing the file.

    Raises:
        StructureError: nothing is there, no reader recognises it, or the reader refuses it.
        SettingsError: `fmax` is not above 0.
    """
    if not fmax > 0:
        raise SettingsError(f"fmax is {fmax}: allowed is a force above 0 eV/Å")
    return _reader(Path(path)).pairs(Path(path), ImportRules(fmax, skip_broken))


def import_frames(path: str | os.PathLike[str], *, skip_broken: bool = False) -> ImportedFrames:
    """Read structures with energies and forces with the first reader that recognises the path.

    Args:
        path: a file or folder.
        skip_broken: leave broken frames out and count them, instead of refusing the file.

    Raises:
        StructureError: as `import_pairs`.
    """
    return _reader(Path(path)).frames(Path(path), ImportRules(skip_broken=skip_broken))


def _reader(place: Path) -> Reader:
    if not os.path.lexists(place):
        raise StructureError(f"{place}: there is no such file or folder: check the path")
    try:
        place.stat()
    except OSError as error:
        what = "is a symbolic link that leads nowhere or in a circle" if place.is_symlink() else "cannot be read"
        raise StructureError(f"{place}: {what} ({error.strerror}): give the file itself") from error
    if place.is_file() and place.stat().st_size == 0:
        raise StructureError(f"{place}: the file is empty: give at least one structure")
    if not place.is_file() and not place.is_dir():
        raise StructureError(f"{place}: neither a file nor a folder: give one of them")
    for reader in READERS:
        if reader.recognises(place):
            return reader
    known = ", ".join(reader.name for reader in READERS)
    raise StructureError(f"{place}: no reader recognises this; known: {known}")


__all__ = ["FMAX", "READERS", "ImportRules", "Imported", "ImportedFrames", "Reader", "import_frames", "import_pairs"]
