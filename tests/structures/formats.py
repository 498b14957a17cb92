"""Small writers of the formats that the readers read, after the published layouts and without the packages' code."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import types
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io.trajectory import Trajectory
from ase.units import GPa

PAGE = 4096
STRESS = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])  # Voigt order, eV/Å³


def relaxation(frames: int = 3, *, fixed: bool = True, name: str = "relax-a") -> list[Atoms]:
    """Return a made-up relaxation of two silicon atoms with energy, forces, stress and a fixed atom."""
    made = []
    for k in range(frames):
        atoms = bulk("Si", cubic=True)[:2]
        atoms.positions[1] += 0.05 * (frames - 1 - k)
        if fixed:
            atoms.set_constraint(FixAtoms([0]))
        forces = np.array([[0.5, 0, 0], [-0.01 * (frames - k), 0.02, 0.0]])
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - k, forces=forces, stress=STRESS * (k + 1))
        atoms.info["key_value_pairs"] = {}
        atoms.info = {"sid": name, "frame": k}
        made.append(atoms)
    return made


def write_traj(path: Path, frames: list[Atoms]) -> Path:
    with Trajectory(str(path), "w") as out:
        for atoms in frames:
            out.write(atoms)
    return path


def write_database(path: Path, frames: list[Atoms], kind: str) -> Path:
    with connect(str(path), type=kind, append=False) as out:
        for atoms in frames:
            out.write(atoms, source=str(atoms.info["sid"]) + "x", frame=int(atoms.info["frame"]))
    return path


# LMDB


def row_of(atoms: Atoms) -> dict[str, Any]:
    """Return the row that ASE's LMDB backend keeps of Atoms."""

    def array(values: Any) -> dict[str, Any]:
        values = np.asarray(values)
        return {"__ndarray__": [list(values.shape), str(values.dtype), values.reshape(-1).tolist()]}

    row = {
        "numbers": array(atoms.numbers),
        "positions": array(atoms.positions),
        "cell": array(atoms.cell.array),
        "pbc": array(atoms.pbc),
        "unique_id": "0" * 32,
        "key_value_pairs": {},
        "data": dict(atoms.info),
        "constraints": [c.todict() for c in atoms.constraints],
    }
    if atoms.calc is not None:
        results = atoms.calc.results
        row["energy"] = float(results["energy"])
        row["forces"], row["stress"] = array(results["forces"]), array(results["stress"])
    return row


def write_aselmdb(path: Path, frames: list[Atoms]) -> Path:
    items = {str(k + 1).encode(): zlib.compress(json.dumps(row_of(a)).encode()) for k, a in enumerate(frames)}
    items[b"nextid"] = zlib.compress(str(len(frames) + 1).encode())
    items[b"metadata"] = zlib.compress(b"{}")
    return write_lmdb(path, items)


def write_lmdb(path: Path, items: Mapping[bytes, bytes], per_leaf: int = 4) -> Path:
    """Write a tree of one branch page over leaves; values above half a page lie on overflow pages."""
    pages: list[bytes] = [b"", b""]
    leaves: list[tuple[bytes, int]] = []
    ordered = sorted(items.items())
    for start in range(0, len(ordered), per_leaf):
        nodes = []
        for key, value in ordered[start : start + per_leaf]:
            size = struct.pack("<HH", len(value) & 0xFFFF, len(value) >> 16)
            if len(value) > 800:
                where = len(pages)
                count = -(-(16 + len(value)) // PAGE)
                head = struct.pack("<QHHI", where, 0, 4, count)
                block = (head + value).ljust(count * PAGE, b"\0")
                pages += [block[k * PAGE : (k + 1) * PAGE] for k in range(count)]
                nodes.append(size + struct.pack("<HH", 1, len(key)) + key + struct.pack("<Q", where))
            else:
                nodes.append(size + struct.pack("<HH", 0, len(key)) + key + value)
        leaves.append((ordered[start][0], len(pages)))
        pages.append(_page(len(pages), 2, nodes))
    depth, root = 1, 2**64 - 1
    if len(leaves) == 1:
        root = leaves[0][1]
    elif leaves:
        nodes = []
        for place, (key, number) in enumerate(leaves):
            key = b"" if place == 0 else key
            nodes.append(struct.pack("<HHHH", number & 0xFFFF, number >> 16 & 0xFFFF, number >> 32, len(key)) + key)
        depth, root = 2, len(pages)
        pages.append(_page(root, 1, nodes))
    for number in (0, 1):
        free = struct.pack("<IHHQQQQQ", PAGE, 8, 0, 0, 0, 0, 0, 2**64 - 1)
        main = struct.pack("<IHHQQQQQ", 0, 0, depth, 1, len(leaves), 0, len(items), root)
        meta = (
            struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 1 << 30) + free + main + struct.pack("<QQ", len(pages) - 1, number)
        )
        pages[number] = (struct.pack("<QHHHH", number, 0, 8, 0, 0) + meta).ljust(PAGE, b"\0")
    path.write_bytes(b"".join(pages))
    return path


def _page(number: int, flags: int, nodes: list[bytes]) -> bytes:
    data, offsets, upper = bytearray(PAGE), [], PAGE
    for node in nodes:
        upper -= len(node) + len(node) % 2
        data[upper : upper + len(node)] = node
        offsets.append(upper)
    lower = 16 + 2 * len(nodes)
    data[:lower] = struct.pack("<QHHHH", number, 0, flags, lower, upper) + struct.pack(f"<{len(offsets)}H", *offsets)
    return bytes(data)


# pickles of the Open Catalyst Project


def ocp_record(values: Mapping[str, Any], *, layout: str = "old", protocol: int = 4) -> bytes:
    """Pickle a record as torch_geometric's Data does: flat (`old`) or in a storage (`new`)."""
    names = ("torch_geometric", "torch_geometric.data", "torch_geometric.data.data", "torch_geometric.data.storage")
    modules = {name: types.ModuleType(name) for name in names}
    data = type("Data", (), {"__module__": names[2]})
    store = type("GlobalStorage", (), {"__module__": names[3]})
    modules[names[2]].Data, modules[names[3]].GlobalStorage = data, store  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        record = data()
        if layout == "old":
            record.__dict__.update(values)
        else:
            inner = store()
            inner.__dict__.update({"_mapping": dict(values), "_parent": record})
            record.__dict__.update({"_store": inner})
        return pickle.dumps(record, protocol=protocol)
    finally:
        for name in names:
            del sys.modules[name]


def ocp_values(atoms: Atoms, fid: int, sid: int = 7) -> dict[str, Any]:
    return {
        "pos": torch.tensor(atoms.positions, dtype=torch.float32),
        "cell": torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
        "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.float32),
        "natoms": len(atoms),
        "tags": torch.tensor([0, 1]),
        "fixed": torch.tensor([1.0, 0.0]),
        "edge_index": torch.tensor([[0, 1], [1, 0]]),
        "y": float(atoms.calc.results["energy"]),
        "force": torch.tensor(atoms.calc.results["forces"], dtype=torch.float32),
        "sid": sid,
        "fid": fid,
    }


def write_s2ef(path: Path, frames: list[Atoms], **how: Any) -> Path:
    items = {str(k).encode(): ocp_record(ocp_values(a, k), **how) for k, a in enumerate(frames)}
    items[b"length"] = pickle.dumps(len(frames))
    return write_lmdb(path, items)


# VASP

_KPOINTS = (
    '<kpoints><varray name="kpointlist"><v>0 0 0</v></varray>'
    '<varray name="weights"><v>1</v></varray></kpoints><parameters></parameters>'
)


def vasprun(frames: list[Atoms], *, ended: bool = True) -> str:
    """Return a vasprun.xml of ionic steps; stress is printed as VASP does, in kB and positive under compression."""
    first = frames[0]
    parts = ['<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<atominfo><array name="atoms"><set>']
    parts[0] = parts[0].replace("<atominfo>", _KPOINTS + "<atominfo>")
    parts += [f"<rc><c>{s} </c><c> 1</c></rc>" for s in first.get_chemical_symbols()]
    parts.append("</set></array></atominfo>")
    fixed = {int(i) for c in first.constraints for i in c.index}
    flags = "".join(f"<v>{' F F F' if k in fixed else ' T T T'}</v>" for k in range(len(first)))
    parts.append(_vasp_structure(first, 'name="initialpos"', f'<varray name="selective">{flags}</varray>'))
    for atoms in frames:
        results = atoms.calc.results
        energy = results["energy"]
        xx, yy, zz, yz, xz, xy = -results["stress"] / (0.1 * GPa)
        stress = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
        levels = f'<energy><i name="e_fr_energy">{energy}</i><i name="e_0_energy">{energy + 0.25}</i></energy>'
        parts.append(f"<calculation><scstep>{levels}</scstep>{_vasp_structure(atoms, '', '')}")
        parts += [_varray("forces", results["forces"]), _varray("stress", stress), levels, "</calculation>"]
    return "\n".join(parts) + ("\n</modeling>\n" if ended else "\n")


def _vasp_structure(atoms: Atoms, named: str, more: str) -> str:
    basis = _varray("basis", atoms.cell.array)
    positions = _varray("positions", atoms.get_scaled_positions())
    return f"<structure {named}><crystal>{basis}</crystal>{positions}{more}</structure>"


def _varray(name: str, rows: Any) -> str:
    return (
        f'<varray name="{name}">' + "".join(f"<v>{' '.join(repr(float(x)) for x in r)}</v>" for r in rows) + "</varray>"
    )


OUTCAR = """ vasp.6.3.0 20Jan22 complex
 POTCAR:    PAW_PBE Si 05Jan2001
 POTCAR:    PAW_PBE Si 05Jan2001
   VRHFIN =Si: s2p2
   ions per type =               2
   NIONS =      2
--------------------------------------- Iteration      1(   1)  ---------------------------------------
  VOLUME and BASIS-vectors are now :
      direct lattice vectors                 reciprocal lattice vectors
     5.430000000  0.000000000  0.000000000     0.184162063  0.000000000  0.000000000
     0.000000000  5.430000000  0.000000000     0.000000000  0.184162063  0.000000000
     0.000000000  0.000000000  5.430000000     0.000000000  0.000000000  0.184162063

  FORCE on cell =-STRESS in cart. coord.  units (eV):
  in kB      10.00000    20.00000    30.00000     4.00000     6.00000     5.00000
  external pressure =       20.00 kB  Pullay stress =        0.00 kB

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.010000      0.020000      0.030000
      1.40000      1.35750      1.35750        -0.010000     -0.020000     -0.030000
 -----------------------------------------------------------------------------------

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       -10.84274516 eV

  energy  without entropy=      -10.74274516  energy(sigma->0) =      -10.79274516
 General timing and accounting informations for this job:
"""


# pymatgen


def pymatgen_structure(atoms: Atoms) -> dict[str, Any]:
    fixed = {int(i) for c in atoms.constraints for i in c.index}
    sites = [
        {
            "species": [{"element": symbol, "occu": 1}],
            "abc": abc.tolist(),
            "xyz": xyz.tolist(),
            "properties": {"selective_dynamics": [k not in fixed] * 3},
        }
        for k, (symbol, abc, xyz) in enumerate(
            zip(atoms.get_chemical_symbols(), atoms.get_scaled_positions(), atoms.positions, strict=True)
        )
    ]
    lattice = {"matrix": atoms.cell.array.tolist(), "pbc": [True] * 3}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice, "sites": sites}


def mptrj(frames: list[Atoms]) -> dict[str, Any]:
    """Return frames as MPtrj has them: stress in kB, positive under compression."""
    made = {}
    for k, atoms in enumerate(frames):
        results = atoms.calc.results
        xx, yy, zz, yz, xz, xy = -results["stress"] / (0.1 * GPa)
        made[f"mp-1-0-{k}"] = {
            "structure": pymatgen_structure(atoms),
            "uncorrected_total_energy": results["energy"],
            "corrected_total_energy": results["energy"] - 1,
            "force": results["forces"].tolist(),
            "stress": [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]],
        }
    return {"mp-1": made}
