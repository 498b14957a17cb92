"""ASE's database in SQLite (`.db`), opened for reading only.

The table `systems` has one row a structure: arrays as little-endian blobs, constraints and key-value pairs as JSON.
Columns used here are the same in all versions of the layout since 5. Rows of one relaxation are recognised by key-value
pairs, as in `ase_rows`; a row that names none is a relaxation of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import parse_json, row_snapshot
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader

_COLUMNS = "id, numbers, positions, cell, pbc, constraints, energy, forces, stress, key_value_pairs"
_TYPES = {"numbers": "<i4", "positions": "<f8", "cell": "<f8", "forces": "<f8", "stress": "<f8"}


class AseSqlite(TrajectoryReader):
    """An SQLite file with ASE's table of systems."""

    name: ClassVar[str] = "ASE database in SQLite (.db)"

    def opens(self, file: Path) -> bool:
        """Whether it is SQLite; that the table is ASE's shows on reading."""
        with file.open("rb") as opened:
            return opened.read(16) == b"SQLite format 3\0"

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield rows in the order of their ids."""
        address = f"file:{quote(str(file.resolve()))}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(address, uri=True)) as database:
                database.execute("PRAGMA trusted_schema=OFF")
                database.execute("PRAGMA cell_size_check=ON")
                kind = database.execute("SELECT type FROM sqlite_master WHERE name='systems'").fetchone()
                if kind != ("table",):  # a view could run whatever the file says
                    raise StructureError("an SQLite file without ASE's table of systems: it is no database of ASE")
                for row in database.execute(f"SELECT {_COLUMNS} FROM systems ORDER BY id"):
                    named = dict(zip(_COLUMNS.split(", "), row, strict=True))
                    place = f"row {named['id']}"
                    try:
                        yield row_snapshot(_decoded(named), place, f"{file.stem}/{named['id']}")
                    except StructureError as error:
                        yield Broken(place, str(error))
        except sqlite3.Error as error:
            raise StructureError(
                f"not readable as an ASE database ({error}): the file is truncated or damaged"
            ) from error


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    found = dict(row)
    for name, kind in _TYPES.items():
        value = row[name]
        if value is None:
            continue
        if not isinstance(value, bytes) or len(value) % np.dtype(kind).itemsize:
            raise StructureError(f"{name} is no array of numbers: the row is damaged")
        found[name] = np.frombuffer(value, dtype=kind)
    if found["forces"] is not None:
        found["forces"] = found["forces"].reshape(-1, 3) if len(found["forces"]) % 3 == 0 else found["forces"]
    if found["cell"] is None:
        del found["cell"]
    bits = row["pbc"]
    if not isinstance(bits, int) or not 0 <= bits < 8:
        raise StructureError(f"pbc is {bits!r}: allowed are 0 to 7")
    found["pbc"] = [bool(bits >> axis & 1) for axis in range(3)]
    words = row["key_value_pairs"]
    found["key_value_pairs"] = parse_json(words) if isinstance(words, str | bytes) and words else {}
    return found
