"""LMDBs of OC20 and OC22 as first shipped: pickled torch_geometric `Data` of one frame (S2EF) or one relaxation.

Fields: `pos`, `atomic_numbers`, `cell`, `tags`, `fixed` (1 where an atom is fixed), `sid` (system) and `fid` (frame).
S2EF has `y` (energy, eV; OC20's are relative to slab and gas references) and `force`; frames of one `sid` are one
relaxation in the order of `fid`. IS2RE and IS2RS have `pos_relaxed`, `y_init` and `y_relaxed`: a record is a pair.
All slabs are periodic along the three vectors. Pickles are opened by `plain_pickles`, which runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import reals, whole_numbers
from thalweg.structures.readers.lmdb_pages import is_lmdb, read_items
from thalweg.structures.readers.plain_pickles import load_record
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader


class OcpLmdb(TrajectoryReader):
    """An LMDB whose first value is a pickle."""

    name: ClassVar[str] = "LMDB of the Open Catalyst Project (OC20, OC22)"

    def opens(self, file: Path) -> bool:
        """Whether it is an LMDB of pickles."""
        if not is_lmdb(file):
            return False
        try:
            return next((value[:1] == b"\x80" for _, value in read_items(file)), file.suffix == ".lmdb")
        except StructureError:
            return file.suffix == ".lmdb"

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield frames in the order of their keys; a record with a relaxed structure gives two."""
        items = [(key, value) for key, value in read_items(file) if key != b"length"]
        for key, value in sorted(items, key=lambda item: (len(item[0]), item[0])):
            place = f"key {key.decode('ascii', 'replace')[:40]}"
            try:
                record = load_record(value)
                if not isinstance(record, Mapping) or "pos" not in record or "atomic_numbers" not in record:
                    raise StructureError("no 'pos' and 'atomic_numbers': this is no record of OC20 or OC22")
                yield from _snapshots(record, place, f"{file.stem}/{key.decode('ascii', 'replace')[:40]}")
            except StructureError as error:
                yield Broken(place, str(error))


def _snapshots(record: Mapping[str, Any], place: str, alone: str) -> Iterator[Snapshot]:
    numbers = whole_numbers(record["atomic_numbers"], "atomic_numbers")
    if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= 118):
        raise StructureError("an atomic number outside 1 to 118: mend the file")
    shape = (len(numbers), 3)
    atoms = Atoms(numbers, reals(record["pos"], "pos", shape), cell=reals(record.get("cell"), "cell", (3, 3)), pbc=True)
    if record.get("fixed") is not None:
        atoms.set_constraint(FixAtoms(mask=reals(record["fixed"], "fixed", (len(numbers),)).astype(bool)))
    sid, fid = record.get("sid"), record.get("fid")
    name = alone if sid is None else str(_scalar(sid))
    if record.get("pos_relaxed") is not None:
        yield Snapshot(place, name, 0.0, atoms, _energy(record.get("y_init")))
        end = atoms.copy()
        end.positions = reals(record["pos_relaxed"], "pos_relaxed", shape)
        yield Snapshot(f"{place}, relaxed", name, 1.0, end, _energy(record.get("y_relaxed")))
        return
    forces = record.get("force", record.get("forces"))
    yield Snapshot(
        place,
        name,
        0.0 if fid is None else float(reals(fid, "fid", (1,))[0]),
        atoms,
        _energy(record.get("y", record.get("energy"))),
        None if forces is None else reals(forces, "force", shape),
    )


def _energy(value: object) -> float | None:
    return None if value is None else float(reals(value, "energy", (1,))[0])


def _scalar(value: object) -> object:
    found = np.asarray(value)
    return found.reshape(-1)[0].item() if found.size == 1 and found.dtype.kind in "iufUS" else value
