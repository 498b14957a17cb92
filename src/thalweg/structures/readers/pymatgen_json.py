"""Pymatgen's JSON, read without pymatgen: structures, entries, ionic steps of VASP runs, trajectories of MPtrj.

What is found, anywhere in the document:

- `{"lattice": …, "sites": …}`: a structure; ordered sites only;
- `{"structure": …, "energy" | "uncorrected_total_energy": …, "force" | "forces": …, "stress": …}`: an entry or a frame
  of MPtrj. Frames whose keys differ in a number at the end (`mp-1-0-3`) are one relaxation in its order;
- `{"ionic_steps": […]}`: a run of VASP, one relaxation; the energy is `e_fr_energy`, the one that forces derive from.

Stress is VASP's: kB, positive under compression; here it becomes eV/Å³, positive under tension. Members of a list are
one relaxation in its order. `selective_dynamics` of a site says which fractional directions may move.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.constraints import FixScaled
from ase.data import atomic_numbers
from ase.units import GPa
from numpy.typing import NDArray

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import reals, shown
from thalweg.structures.readers.json_files import document_of, head_of
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader

KILOBAR = 0.1 * GPa
"""1 kB in eV/Å³."""

_ENERGIES = ("uncorrected_total_energy", "e_fr_energy", "energy")
_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{1,9})")
_DEEPEST = 8


class PymatgenJson(TrajectoryReader):
    """JSON that names pymatgen, a lattice or ionic steps near its beginning."""

    name: ClassVar[str] = "pymatgen JSON"

    def opens(self, file: Path) -> bool:
        """Whether the first 64 KiB look like pymatgen's."""
        head = head_of(file)
        if head.lstrip()[:1] not in (b"{", b"[") or b'"__ndarray__"' in head:
            return False
        return any(word in head for word in (b"pymatgen", b'"sites"', b'"lattice"', b'"ionic_steps"', b'"structure"'))

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield every structure of the document, in its order."""
        yield from _found(document_of(file), file.stem, 0.0, "top", 0)


def _found(node: Any, name: str, order: float, place: str, depth: int) -> Iterator[Snapshot | Broken]:
    if depth > _DEEPEST:
        return
    if isinstance(node, list):
        for index, child in enumerate(node):
            if isinstance(child, dict | list):
                yield from _found(child, name, float(index), f"{place}[{index}]", depth + 1)
    elif isinstance(node, dict) and ("structure" in node or ("lattice" in node and "sites" in node)):
        try:
            yield _snapshot(node, name, order, place)
        except StructureError as error:
            yield Broken(place, str(error))
    elif isinstance(node, dict) and isinstance(node.get("ionic_steps"), list):
        yield from _found(node["ionic_steps"], name, 0.0, f"{place}.ionic_steps", depth + 1)
    elif isinstance(node, dict):
        for key, child in node.items():
            if isinstance(child, dict | list) and not key.startswith("@"):
                named, number = _named(key, name, isinstance(child, dict))
                where = key if place == "top" else f"{place}.{key}"
                yield from _found(child, named, number, where[-80:], depth + 1)


def _named(key: str, above: str, single: bool) -> tuple[str, float]:
    match = _NUMBERED.fullmatch(key) if single else None
    if match and ("-" in match["name"] or match["name"] == above):  # mp-1-0-3, and not the material mp-1
        return match["name"], float(match["number"])
    return key, 0.0


def _snapshot(node: Mapping[str, Any], name: str, order: float, place: str) -> Snapshot:
    atoms = _atoms(node.get("structure", node))
    if "structure" not in node:
        return Snapshot(place, name, order, atoms)
    energy = next((node[key] for key in _ENERGIES if node.get(key) is not None), None)
    forces = node.get("force", node.get("forces"))
    stress = node.get("stress")
    return Snapshot(
        place,
        name,
        order,
        atoms,
        None if energy is None else float(reals(energy, "energy", ())),
        None if forces is None else reals(forces, "forces", (len(atoms), 3)),
        None if stress is None else vasp_stress(reals(stress, "stress", (3, 3))),
    )


def vasp_stress(kilobars: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a stress of VASP (kB, positive under compression) in eV/Å³, positive under tension."""
    return -KILOBAR * kilobars


def _atoms(structure: Any) -> Atoms:
    lattice = structure.get("lattice") if isinstance(structure, Mapping) else None
    sites = structure.get("sites") if isinstance(structure, Mapping) else None
    if not isinstance(lattice, Mapping) or not isinstance(sites, list) or not sites:
        raise StructureError("a structure without lattice and sites: it is damaged")
    cell = reals(lattice.get("matrix"), "lattice.matrix", (3, 3))
    pbc = lattice.get("pbc", [True, True, True])
    if not isinstance(pbc, list) or len(pbc) != 3 or any(not isinstance(p, bool) for p in pbc):
        raise StructureError(f"lattice.pbc is {shown(pbc)}: allowed are three of true and false")
    numbers, positions, fixed = [], [], []
    for index, site in enumerate(sites):
        if not isinstance(site, Mapping):
            raise StructureError(f"site {index} is damaged")
        numbers.append(_element(site, index))
        if site.get("xyz") is not None:
            positions.append(reals(site["xyz"], f"xyz of site {index}", (3,)))
        else:
            positions.append(reals(site.get("abc"), f"abc of site {index}", (3,)) @ cell)
        moves = (site.get("properties") or {}).get("selective_dynamics")
        if moves is not None and not all(moves):
            fixed.append(FixScaled([index], mask=~np.asarray(moves, dtype=bool).reshape(3)))
    atoms = Atoms(numbers, np.array(positions), cell=cell, pbc=pbc)
    atoms.set_constraint(fixed)
    return atoms


def _element(site: Mapping[str, Any], index: int) -> int:
    species = site.get("species")
    if not isinstance(species, list) or len(species) != 1 or not isinstance(species[0], Mapping):
        raise StructureError(f"site {index} holds several species or none: only ordered structures can be used")
    if species[0].get("occu", 1) != 1:
        raise StructureError(
            f"site {index} is occupied by {shown(species[0].get('occu'))}: only ordered structures can be used"
        )
    symbol = re.match(r"[A-Z][a-z]?", str(species[0].get("element")))
    number = 0 if symbol is None else atomic_numbers.get({"D": "H", "T": "H"}.get(symbol[0], symbol[0]), 0)
    if not number:
        raise StructureError(f"site {index} is {shown(species[0].get('element'))!r}: no known element")
    return number
