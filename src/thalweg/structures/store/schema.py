"""What lies in a store: flat little-endian arrays without headers, and an index that says what they are.

    index.json      schema, counts, types, units, source, and size and checksum of every file
    offsets.bin     where the atoms of each frame begin, and their number at the end
    positions.bin   …one file an array; see `COLUMNS`

The index has a length of its own that does not grow with the frames, and a checksum of itself. Called by `writing`
and `reading`; the format is described in docs/store.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from thalweg.errors import StructureError

SCHEMA = "thalweg frame store"
VERSION = 1
INDEX, JOURNAL = "index.json", "journal.jsonl"
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³, positive under tension"}

Along = Literal["frames", "frames+1", "atoms", "parents+1", "id bytes", "parent bytes"]
"""What the first axis of an array counts; +1 where the end is listed too."""


@dataclass(frozen=True)
class Column:
    """One array of the store."""

    name: str
    """Its name; the file is called `<name>.bin`."""
    kind: str
    """Its type as numpy writes it; `real` is the floating type of the store."""
    along: Along
    """What its first axis counts."""
    rest: tuple[int, ...] = ()
    """Its other axes."""
    optional: bool = False
    """Whether a store may lack it."""


COLUMNS = (
    Column("offsets", "<i8", "frames+1"),
    Column("numbers", "|u1", "atoms"),
    Column("positions", "real", "atoms", (3,)),
    Column("forces", "real", "atoms", (3,)),
    Column("free", "|u1", "atoms", optional=True),  # bit c is set where component c may move
    Column("cell", "<f8", "frames", (3, 3)),
    Column("pbc", "|u1", "frames"),  # bit d is set where direction d is periodic
    Column("energy", "<f8", "frames"),
    Column("stress", "<f8", "frames", (3, 3), optional=True),  # rows of NaN where unknown
    Column("ids", "|u1", "id bytes"),  # UTF-8, one name after the other
    Column("id_offsets", "<i8", "frames+1"),
    Column("parents", "<u4", "frames"),  # number of the parent in the list of names
    Column("parent_names", "|u1", "parent bytes"),
    Column("parent_offsets", "<i8", "parents+1"),
)
"""Every array of the format, in the order of the index."""


@dataclass(frozen=True)
class Stored:
    """What the index says of one file."""

    type: str
    """Type as numpy writes it."""
    shape: tuple[int, ...]
    """Shape."""
    bytes: int
    """Size of the file."""
    blake2b: str
    """Checksum of the file: BLAKE2b, 16 bytes, hexadecimal."""


@dataclass(frozen=True)
class StoreIndex:
    """The index of a store."""

    frames: int
    """Number of frames."""
    atoms: int
    """Number of atoms of all frames."""
    parents: int
    """Number of different parents."""
    largest: int
    """Atoms of the largest frame."""
    species: tuple[int, ...]
    """Atomic numbers that occur, ascending."""
    dtype: str
    """Floating type of positions and forces: float32 or float64."""
    source: str
    """Name of the file or folder that was converted."""
    arrays: Mapping[str, Stored]
    """The files, by name of the array."""

    @property
    def bytes(self) -> int:
        """Size of all arrays."""
        return sum(stored.bytes for stored in self.arrays.values())

    @property
    def digest(self) -> str:
        """Checksum of the index, and through its checksums of the whole store but for the name of the source."""
        values = self._values()
        del values["source"]
        return _checksum(values)

    def _values(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "version": VERSION, "units": UNITS, **asdict(self)}


def index_text(index: StoreIndex) -> str:
    """Return the content of the index file."""
    values = index._values()
    return json.dumps({**values, "checksum": _checksum(values)}, indent=1, ensure_ascii=False) + "\n"


def read_index(folder: Path) -> StoreIndex:
    """Read and check the index of a store.

    Raises:
        StructureError: no such folder, no index, a conversion that was not finished, another schema or version, or
            an index that is damaged.
    """
    file = folder / INDEX
    if not folder.is_dir():
        what = "this is a file, not the folder of a store" if folder.exists() else "there is no such store"
        raise StructureError(f"{folder}: {what}; make one with thalweg data convert")
    if not file.exists() and (folder / JOURNAL).exists():
        raise StructureError(
            f"{folder}: this conversion was not finished: run thalweg data convert with the same arguments again"
        )
    try:
        values = json.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise StructureError(f"{folder}: no {INDEX}, so this is no store: make one with thalweg data convert") from None
    except OSError as error:
        raise StructureError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from error
    except (ValueError, RecursionError):
        raise StructureError(f"{file}: not JSON, the index is damaged: convert the source again") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise StructureError(f"{file}: its schema is {found!r}, allowed is {SCHEMA!r}: this is no store of this kind")
    if values.get("version") != VERSION:
        raise StructureError(
            f"{file}: version {values.get('version')!r} of the schema, known is {VERSION}: convert the source again"
        )
    if values.pop("checksum", None) != _checksum(values):
        raise StructureError(f"{file}: its checksum does not fit its content, the index is damaged: convert again")
    return _index_of(values, file)


def real_type(dtype: str) -> str:
    """Return the numpy type of the floating type of a store."""
    return {"float32": "<f4", "float64": "<f8"}[dtype]


def file_checksum(path: Path) -> str:
    """Return the checksum of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _index_of(values: dict[str, Any], file: Path) -> StoreIndex:
    """Build the index from values whose checksum is right, so that only a wrong writer can fail here."""
    try:
        arrays = {
            name: Stored(stored["type"], tuple(stored["shape"]), stored["bytes"], stored["blake2b"])
            for name, stored in values["arrays"].items()
        }
        index = StoreIndex(
            **{key: values[key] for key in ("frames", "atoms", "parents", "largest", "dtype", "source")},
            species=tuple(values["species"]),
            arrays=arrays,
        )
        _check_shapes(index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise StructureError(f"{file}: the index contradicts itself ({reason}): convert the source again") from None
    return index


def _check_shapes(index: StoreIndex) -> None:
    sizes = {"frames": index.frames, "atoms": index.atoms, "frames+1": index.frames + 1, "parents+1": index.parents + 1}
    for column in COLUMNS:
        stored = index.arrays.get(column.name)
        if stored is None:
            if not column.optional:
                raise ValueError(f"no array {column.name}")
            continue
        wanted = real_type(index.dtype) if column.kind == "real" else column.kind
        length = sizes.get(column.along, stored.shape[0])
        if stored.type != wanted or stored.shape != (length, *column.rest):
            raise ValueError(f"{column.name} of type {stored.type} and shape {stored.shape}")


def _checksum(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()
