"""Readers of pairs, tried in the order of `READERS`; each is one file here and one line in that list."""

from __future__ import annotations

import os
from pathlib import Path

from thalweg.errors import StructureError
from thalweg.structures.readers.contract import Imported, Reader
from thalweg.structures.readers.extxyz import ExtendedXyz
from thalweg.structures.readers.vasp_folders import VaspFolders

READERS: tuple[Reader, ...] = (
    ExtendedXyz(),
    VaspFolders(),
)
"""Every reader; joining this list puts one under the contract tests."""


def import_pairs(path: str | os.PathLike[str]) -> Imported:
    """Read pairs with the first reader that recognises the path.

    Raises:
        StructureError: nothing is there, no reader recognises it, or the reader refuses it.
    """
    place = Path(path)
    if not place.exists():
        raise StructureError(f"{os.fspath(path)}: there is no such file or folder: check the path")
    for reader in READERS:
        if reader.recognises(place):
            return reader.read(place)
    raise StructureError(
        f"{os.fspath(path)}: no reader recognises this; known: {', '.join(reader.name for reader in READERS)}"
    )


__all__ = ["READERS", "Imported", "Reader", "import_pairs"]
