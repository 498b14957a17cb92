"""ASE's database in LMDB (`.aselmdb`), as OMat24, OMol25 and the later OC22 are shipped.

Keys are row numbers as text, values zlib-compressed JSON of a row (see `ase_rows`); `nextid`, `deleted_ids` and
`metadata` are no rows. Rows of one relaxation are recognised by what names them (`RELAXATION_KEYS`) and ordered by
`ORDER_KEYS`, else by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import inflate, parse_json, row_snapshot
from thalweg.structures.readers.lmdb_pages import is_lmdb, read_items
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader

_RESERVED = {b"nextid", b"deleted_ids", b"metadata"}


class AseLmdb(TrajectoryReader):
    """An LMDB whose first value is zlib-compressed, or one that cannot be looked into and is called .aselmdb."""

    name: ClassVar[str] = "ASE database in LMDB (.aselmdb)"

    def opens(self, file: Path) -> bool:
        """Whether it is an LMDB of compressed rows."""
        if not is_lmdb(file):
            return False
        try:
            return next((value[:1] == b"\x78" for _, value in read_items(file)), file.suffix == ".aselmdb")
        except StructureError:
            return file.suffix == ".aselmdb"

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield rows in the order of their numbers."""
        items = [(key, value) for key, value in read_items(file) if key not in _RESERVED]
        for key, value in sorted(items, key=lambda item: (len(item[0]), item[0])):
            place = f"row {key.decode('ascii', 'replace')[:40]}"
            try:
                if not key.isdigit():
                    raise StructureError("its key is no row number: this is no database of ASE")
                yield row_snapshot(parse_json(inflate(value)), place, f"{file.stem}/{key.decode()}")
            except StructureError as error:
                yield Broken(place, str(error))
