"""Rows of ASE's databases (JSON, LMDB, SQLite) as snapshots: one dict of arrays, labels and constraints each.

ASE writes an array as {"__ndarray__": [shape, type, flat values]}. Only arrays of numbers are made here, and nothing
else that a file may ask for. Stress is six numbers in Voigt order (xx, yy, zz, yz, xz, xy) or nine, in eV/Å³ and
positive under tension, which is this package's convention.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from thalweg.errors import StructureError
from thalweg.structures.readers.snapshots import Snapshot

RELAXATION_KEYS = ("relaxation", "trajectory", "traj_id", "sid", "source", "calc_id", "mp_id", "material_id")
"""What names the relaxation of a row, the first that it has."""
ORDER_KEYS = ("frame", "fid", "frame_number", "frame_index", "ionic_step", "step")
"""What says its place there, the first that it has."""

LARGEST_RECORD = 1 << 26
"""A record larger than this (bytes, 64 MiB) is refused: 64 atoms take 10 kB."""


def inflate(data: bytes) -> bytes:
    """Undo zlib's compression of one record, up to `LARGEST_RECORD`.

    Raises:
        StructureError: damaged, cut, or larger than that.
    """
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, LARGEST_RECORD)
    except zlib.error as error:
        raise StructureError(f"damaged compression ({error})") from error
    if stream.unconsumed_tail:
        raise StructureError(
            f"{len(data)} bytes unpack to more than {LARGEST_RECORD >> 20} MiB, which no structure needs: refused"
        )
    if not stream.eof:
        raise StructureError("compressed data end too early: the record is cut")
    return found


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, ASE's arrays included.

    Raises:
        StructureError: not JSON, nested too deeply, or an array that is none.
    """
    try:
        return json.loads(text, object_hook=_object)
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise StructureError(f"not JSON ({reason}): the record is damaged") from error


def row_snapshot(row: object, place: str, alone: str) -> Snapshot:
    """Make a snapshot of one row.

    Args:
        row: what the database holds, decoded.
        place: where it stands.
        alone: name of the relaxation if the row names none.

    Raises:
        StructureError: no atoms in it, or they are not numbers of one length.
    """
    if not isinstance(row, Mapping) or "numbers" not in row or "positions" not in row:
        raise StructureError("no 'numbers' and 'positions': this is no row of an ASE database")
    numbers = whole_numbers(row["numbers"], "numbers")
    positions = reals(row["positions"], "positions", (len(numbers), 3))
    cell = row.get("cell", np.zeros((3, 3)))
    if isinstance(cell, Mapping):  # newer releases of ASE name the class of a cell
        cell = cell.get("array")
    cell = reals(cell, "cell", (3, 3))
    pbc = np.asarray(row.get("pbc", [False] * 3))
    if pbc.shape != (3,) or pbc.dtype.kind not in "bi":
        raise StructureError(f"pbc is {shown(row.get('pbc'))}: allowed are three of true and false")
    _refuse_unknown(numbers)
    atoms = Atoms(numbers, positions, cell=cell, pbc=pbc.astype(bool))
    atoms.set_constraint(_constraints(row.get("constraints"), len(atoms)))
    words = _words(row)
    name = next((str(words[key]) for key in RELAXATION_KEYS if _plain(words.get(key))), alone)
    return Snapshot(
        place, name, _order(words), atoms, row.get("energy"), row.get("forces"), full_stress(row.get("stress"))
    )


def reals(value: object, what: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return numbers of a shape; a flat list of as many is taken too.

    Raises:
        StructureError: they are not.
    """
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise StructureError(f"{what} are not numbers: {shown(value)}") from None
    if found.shape != shape and found.size != int(np.prod(shape)):
        raise StructureError(f"{what} of shape {found.shape} where {shape} is due")
    return found.reshape(shape)


def shown(value: object) -> str:
    """Return the beginning of a value on one line, for messages; the value itself is never written out whole."""
    if isinstance(value, list | tuple) and len(value) > 6:
        value = f"[{shown(value[0])}, … {len(value)} of them]"
    if isinstance(value, np.ndarray):
        value = f"an array of shape {value.shape}"
    if isinstance(value, Mapping):
        value = f"a mapping of {', '.join(str(key)[:20] for key in list(value)[:4])}"
    return " ".join(str(value)[:200].split())[:60]


def whole_numbers(value: object, what: str) -> NDArray[np.int64]:
    """Return whole numbers along one axis; floating ones without a fraction are taken too.

    Raises:
        StructureError: they are not.
    """
    try:
        found = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise StructureError(f"{what} are not numbers: {shown(value)}") from None
    if not (np.isfinite(found).all() and (found == np.rint(found)).all() and (np.abs(found) < 2**31).all()):
        raise StructureError(f"{what} are not whole numbers: {shown(value)}")
    return found.astype(np.int64)


def full_stress(value: object) -> NDArray[np.float64] | None:
    """Return a stress of six numbers in Voigt order or of nine as [3 3].

    Raises:
        StructureError: it has another number of them.
    """
    if value is None:
        return None
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(f"stress is not numbers: {shown(value)}") from None
    if found.size == 9:
        return found.reshape(3, 3)
    if found.shape != (6,):
        raise StructureError(f"stress of shape {found.shape}: allowed are six numbers (Voigt order) or nine")
    return np.asarray(voigt_6_to_full_3x3_stress(found), dtype=np.float64)


def _refuse_unknown(numbers: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero((numbers < 1) | (numbers > 118))
    if len(wrong):
        raise StructureError(f"atom {wrong[0]} has atomic number {numbers[wrong[0]]}: allowed are 1 to 118")


def _object(found: dict[str, Any]) -> Any:
    if "__ndarray__" not in found:
        return found.get("__complex_ndarray__") and None if "__complex_ndarray__" in found else found
    content = found["__ndarray__"]
    if not isinstance(content, list) or len(content) != 3:
        raise ValueError("an array without shape, type and values")
    shape, kind, values = content
    if np.dtype(str(kind)).kind not in "biuf":
        raise ValueError(f"an array of type {str(kind)[:20]!r}: allowed are numbers")
    array = np.array(values, dtype=np.dtype(str(kind)))
    return array.reshape([int(n) for n in shape])


def _constraints(found: object, atoms: int) -> list[FixAtoms | FixCartesian]:
    if isinstance(found, str):
        found = parse_json(found) if found else None
    if not found:
        return []
    if not isinstance(found, list):
        raise StructureError(f"constraints are {shown(found)}: allowed is a list of them")
    made: list[FixAtoms | FixCartesian] = []
    for one in found:
        name, given = (one.get("name"), one.get("kwargs")) if isinstance(one, Mapping) else (None, None)
        if name not in ("FixAtoms", "FixCartesian") or not isinstance(given, Mapping):
            raise StructureError(f"constraint {shown(name or one)} is not supported; allowed: FixAtoms, FixCartesian")
        index = np.atleast_1d(whole_numbers(given.get("indices", given.get("a")), "constrained atoms"))
        if len(index) and not (index.min() >= 0 and index.max() < atoms):
            raise StructureError(f"a constraint names atom {int(index.max())} of {atoms}: mend the file")
        if name == "FixAtoms":
            made.append(FixAtoms(index))
        else:
            mask = np.asarray(given.get("mask", [True] * 3))
            if mask.shape != (3,) or mask.dtype.kind not in "bi":
                raise StructureError(f"the mask of FixCartesian is {shown(given.get('mask'))}: allowed are three")
            made.append(FixCartesian(index, mask=mask.astype(bool)))
    return made


def _words(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what names a row: its data, its key-value pairs, its info."""
    words: dict[str, Any] = {}
    for key in ("info", "data", "key_value_pairs"):
        part = row.get(key)
        if isinstance(part, Mapping):
            words.update(part)
            if isinstance(part.get("info"), Mapping):
                words.update(part["info"])
    return words


def _plain(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value) != ""


def _order(words: Mapping[str, Any]) -> float:
    for key in ORDER_KEYS:
        value = words.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            return float(value)
    return 0.0
