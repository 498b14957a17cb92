"""ASE's JSON: a database (`{"1": {…}, "ids": […], "nextid": …}`), one row, or a list of rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import row_snapshot
from thalweg.structures.readers.json_files import document_of, head_of
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader


class AseJson(TrajectoryReader):
    """JSON that has ASE's arrays, or numbers and positions, near its beginning."""

    name: ClassVar[str] = "ASE JSON"

    def opens(self, file: Path) -> bool:
        """Whether the first 64 KiB look like rows of ASE."""
        head = head_of(file)
        if head.lstrip()[:1] not in (b"{", b"[") or b'"@module"' in head or b'"sites"' in head:
            return False
        return b'"__ndarray__"' in head or b'"numbers"' in head or b'"positions"' in head

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield rows in order; rows of a list are one relaxation, rows of a database are what they name."""
        document = document_of(file)
        for place, row, alone in _rows(document, file.stem):
            try:
                yield row_snapshot(row, place, alone)
            except StructureError as error:
                yield Broken(place, str(error))


def _rows(document: Any, stem: str) -> Iterator[tuple[str, Any, str]]:
    if isinstance(document, dict) and "numbers" in document:
        yield "row 0", document, stem
    elif isinstance(document, dict):
        numbers = [key for key in document if key.isdigit()]
        for key in sorted(numbers, key=lambda key: (len(key), key)):
            yield f"row {key[:40]}", document[key], f"{stem}/{key[:40]}"
    elif isinstance(document, list):
        for index, row in enumerate(document):
            yield f"row {index}", row, stem
