"""CIF: structures without labels. Several data blocks of one file are one relaxation, first to last."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ase import Atoms
from ase.io.cif import read_cif

from thalweg.errors import StructureError
from thalweg.structures.readers.json_files import head_of, text_of
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader

_BLOCK = re.compile(r"^data_", re.MULTILINE | re.IGNORECASE)
_NO_LENGTH = re.compile(r"^_cell_length_[abc]\s+(-|0+(\.0*)?(\(|\s))", re.MULTILINE | re.IGNORECASE)
_LARGEST_BLOCK = 1 << 24  # characters; 100,000 atoms


class Cif(TrajectoryReader):
    """Text with a data block and a cell."""

    name: ClassVar[str] = "CIF"

    def opens(self, file: Path) -> bool:
        """Whether the first 64 KiB have a data block and a cell length."""
        head = head_of(file)
        return b"\0" not in head and b"_cell_length_a" in head and re.search(rb"^data_", head, re.M | re.I) is not None

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield the structure of every data block."""
        text = text_of(file)
        starts = [match.start() for match in _BLOCK.finditer(text)]
        for index, (start, stop) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True)):
            try:
                yield Snapshot(f"block {index}", file.stem, index, _structure(text[start:stop]))
            except StructureError as error:
                yield Broken(f"block {index}", str(error))


def _structure(block: str) -> Atoms:
    if len(block) > _LARGEST_BLOCK:
        raise StructureError(f"{len(block)} characters: allowed are {_LARGEST_BLOCK}")
    if _NO_LENGTH.search(block):
        raise StructureError("a cell length that is not above 0: mend the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings of space groups; what matters is checked below
            found = read_cif(io.StringIO(block), index=slice(-1, None), fractional_occupancies=True)
    except Exception as error:  # ASE's parser fails in many ways on a broken block: each becomes one line
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise StructureError(f"not readable as CIF ({reason})") from error
    if not isinstance(found, list) or len(found) != 1:
        raise StructureError("no cell with atoms in the block: the file is truncated or of another kind")
    (atoms,) = found
    occupied = atoms.info.get("occupancy") or {}
    if any(len(kinds) != 1 or any(share != 1 for share in kinds.values()) for kinds in occupied.values()):
        raise StructureError("sites are occupied in part: only ordered structures can be used")
    return atoms
