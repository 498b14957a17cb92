"""Make the broken files beside this script: `python tests/data/broken/make.py` from the root of the repository.

Each has one fault. What each must be refused with stands in `tests/cli/test_broken_files.py`; symbolic links are made
there, at run time. The pickles in disguise would create a file `payload-ran` in the working folder.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sqlite3
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from ase.build import bulk  # noqa: E402
from ase.io import write  # noqa: E402
from ase.io.vasp import write_vasp  # noqa: E402
from tests.structures import formats  # noqa: E402

CELL = "5 0 0 0 5 0 0 0 5"
GOOD = ("Si 0 0 0", "Si 2.35 0 0")


def block(role: str = "start", rows: tuple[str, ...] = GOOD, cell: str = CELL, more: str = "", pair: str = "x") -> str:
    kind = f"pair={pair} role={role} " if role else f"pair={pair} "
    return "\n".join([str(len(rows)), f'Lattice="{cell}" Properties=species:S:1:pos:R:3 {kind}{more}', *rows]) + "\n"


def frame(more: str = "energy=-1", forces: str = "0 0 0", columns: str = ":forces:R:3") -> str:
    rows = [f"{row} {forces}" for row in GOOD]
    return "\n".join(["2", f'Lattice="{CELL}" Properties=species:S:1:pos:R:3{columns} {more}', *rows]) + "\n"


def pair(rows: tuple[str, ...] = GOOD, **how: Any) -> str:
    return block() + block("minimum", rows, **how)


def text_files() -> dict[str, str | bytes]:
    far, thin = ("Si 0 0 0", "Si 1e30 0 0"), "1e-5 0 0 0 5 0 0 0 5"
    nanometres = ("Si 0 0 0", "Si 0.0235 0 0")
    return {
        "empty.extxyz": "",
        "blank.extxyz": "\n \n\n",
        "binary-junk.extxyz": bytes((k * 197 + k // 7) % 256 for k in range(600)),
        "zeros.extxyz": b"\0" * 512,
        "utf-16.extxyz": pair().encode("utf-16"),
        "latin-1.extxyz": pair(more="remark=\xc5ngstr\xf6m").encode("latin-1"),
        "cut.extxyz": pair()[:-14],
        "cut-in-row.extxyz": pair()[:-5] + "\n",
        "huge-count.extxyz": "9999999999999\n" + pair()[2:],
        "negative-count.extxyz": "-2\n" + pair()[2:],
        "nan-position.extxyz": pair(("Si 0 0 0", "Si nan 0 0")),
        "infinite-position.extxyz": pair(("Si 0 0 0", "Si inf 0 0")),
        "giant-position.extxyz": pair(far),
        "giant-cell.extxyz": pair(cell="1e20 0 0 0 5 0 0 0 5"),
        "nan-cell.extxyz": pair(cell="nan 0 0 0 5 0 0 0 5"),
        "zero-cell.extxyz": pair(cell="0 0 0 0 0 0 0 0 0", more='pbc="T T T"'),
        "flat-cell.extxyz": pair(cell="5 0 0 5 0 0 0 0 5"),
        "thin-cell.extxyz": pair(cell=thin),
        "eight-numbers.extxyz": pair(cell="5 0 0 0 5 0 0 0"),
        "nanometres.extxyz": pair(nanometres),
        "overlap.extxyz": pair(("Si 0 0 0", "Si 0 0 0.1")),
        "unknown-element.extxyz": pair(("Si 0 0 0", "Qq 2.35 0 0")),
        "dummy-element.extxyz": pair(("Si 0 0 0", "X 2.35 0 0")),
        "permuted-species.extxyz": block(rows=("Si 0 0 0", "Ge 2 0 0")) + block("minimum", ("Ge 0 0 0", "Si 2 0 0")),
        "other-count.extxyz": pair(("Si 0 0 0",)),
        "mixed-pbc.extxyz": pair(more='pbc="T T F"'),
        "duplicate-id.extxyz": pair() + pair(),
        "start-alone.extxyz": block(),
        "no-role.extxyz": block(""),
        "odd-role.extxyz": block("end"),
        "nan-energy.extxyz": pair(more="energy=nan"),
        "word-for-energy.extxyz": pair(more="energy=low"),
        "stress-of-four.extxyz": pair(more='stress="1 2 3 4"'),
        "missing-forces.extxyz": frame(columns="", forces=""),
        "missing-energy.extxyz": frame(more=""),
        "nan-forces.extxyz": frame(forces="0 nan 0"),
        "duplicate-frame.extxyz": frame("energy=-1 id=a") * 2,
        "prose.extxyz": "2\nProperties of what we saw role=start\nfirst\nsecond\n",
        "archive.zip": b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(60),
    }


def ase_files(folder: Path) -> None:
    good = formats.write_traj(folder / "good.traj", formats.relaxation()).read_bytes()
    (folder / "good.traj").unlink()
    (folder / "cut.traj").write_bytes(good[: len(good) * 2 // 3])
    (folder / "cut-in-head.traj").write_bytes(good[:30])
    (folder / "no-frames.traj").write_bytes(good[:32] + struct.pack("<q", 0) + good[40:])
    (folder / "huge-count.traj").write_bytes(good[:32] + struct.pack("<q", 2**60) + good[40:])
    (folder / "negative-count.traj").write_bytes(good[:32] + struct.pack("<q", -4) + good[40:])
    (folder / "odd-version.traj").write_bytes(good[:24] + struct.pack("<q", 99) + good[32:])
    (folder / "not-json.traj").write_bytes(good.replace(b'{"version', b'["version'))
    (folder / "objects.traj").write_bytes(good.replace(b'"float64"', b'"object" '))
    (folder / "huge-array.traj").write_bytes(good.replace(b"[2, 3]", b"[9E9]".ljust(6)).replace(b"[9E9] ", b"[9999]"))
    frames = formats.relaxation()
    frames[1].positions[0, 2] = float("nan")
    formats.write_traj(folder / "nan-frame.traj", frames)
    formats.write_traj(folder / "one-frame.traj", formats.relaxation(1))
    loose = formats.relaxation()
    loose[-1].calc.results["forces"][1] = [0, 3, 0]
    formats.write_traj(folder / "not-relaxed.traj", loose)
    giant = formats.relaxation()
    giant[0].calc.results["forces"] *= 1e12
    formats.write_traj(folder / "giant-forces.traj", giant)
    cells = formats.relaxation()
    cells[-1].set_cell(cells[-1].cell.array * 1.05)
    formats.write_traj(folder / "mixed-cells.traj", cells)


def databases(folder: Path) -> None:
    path = formats.write_database(folder / "good.db", formats.relaxation(), "db")
    good = path.read_bytes()
    path.unlink()
    (folder / "cut.db").write_bytes(good[: len(good) // 3])
    (folder / "head-only.db").write_bytes(good[:100])
    for name, statements in {
        "no-table.db": ["CREATE TABLE other (id INTEGER)"],
        "view.db": [
            "CREATE TABLE t (id INTEGER)",
            "CREATE VIEW systems AS SELECT 1 AS id, randomblob(1000000000) AS numbers FROM t",
        ],
        "odd-columns.db": ["CREATE TABLE systems (id INTEGER, numbers BLOB)"],
    }.items():
        _sqlite(folder / name, statements)
    columns = "id, numbers, positions, cell, pbc, constraints, energy, forces, stress, key_value_pairs"
    table = f"CREATE TABLE systems ({columns})"
    atoms = formats.relaxation(1)[0]
    numbers, positions = atoms.numbers.astype("<i4").tobytes().hex(), atoms.positions.tobytes().hex()
    cell = atoms.cell.array.tobytes().hex()
    for name, values in {
        "torn-blob.db": f"1, x'{numbers}', x'{positions[:-6]}', x'{cell}', 7, '', -1, NULL, NULL, '{{}}'",
        "odd-pbc.db": f"1, x'{numbers}', x'{positions}', x'{cell}', 99, '', -1, NULL, NULL, '{{}}'",
        "text-numbers.db": f"1, 'SiSi', x'{positions}', x'{cell}', 7, '', -1, NULL, NULL, '{{}}'",
        "odd-constraint.db": f"1, x'{numbers}', x'{positions}', x'{cell}', 7, "
        '\'[{"name": "os.system", "kwargs": {"indices": [0]}}]\', -1, NULL, NULL, \'{}\'',
        "empty-table.db": "",
    }.items():
        _sqlite(folder / name, [table, *([f"INSERT INTO systems VALUES ({values})"] if values else [])])


def _sqlite(path: Path, statements: list[str]) -> None:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=512")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def lmdbs(folder: Path) -> None:
    row = formats.row_of(formats.relaxation(1)[0])

    def rows(name: str, **changed: Any) -> None:
        packed(name, json.dumps({**row, **changed}).encode())

    def packed(name: str, text: bytes) -> None:
        formats.write_lmdb(folder / name, {b"1": zlib.compress(text, 9)})

    def array(shape: list[Any], kind: str, values: Any) -> dict[str, Any]:
        return {"__ndarray__": [shape, kind, values]}

    good = formats.write_aselmdb(folder / "cut.aselmdb", formats.relaxation(6)).read_bytes()
    (folder / "cut.aselmdb").write_bytes(good[: formats.PAGE * 2 + 100])
    (folder / "cut-in-meta.aselmdb").write_bytes(good[:90])
    (folder / "other-version.aselmdb").write_bytes(
        good.replace(struct.pack("<II", 0xBEEFC0DE, 1), struct.pack("<II", 0xBEEFC0DE, 9))
    )
    root = len(good) // formats.PAGE - 1
    circle = bytearray(good)
    for offset in struct.unpack_from("<2H", good, root * formats.PAGE + 16):
        struct.pack_into("<HHH", circle, root * formats.PAGE + offset, root, 0, 0)
    (folder / "circle.aselmdb").write_bytes(bytes(circle))
    outside = bytearray(good)
    struct.pack_into("<HH", outside, root * formats.PAGE + 16, 65535, 65535)
    (folder / "node-outside.aselmdb").write_bytes(bytes(outside))
    formats.write_lmdb(folder / "no-rows.aselmdb", {})
    packed("bomb.aselmdb", b"[" + b" " * (1 << 26))
    formats.write_lmdb(folder / "not-packed.aselmdb", {b"1": b"\x78" + json.dumps(row).encode()[:200]})
    formats.write_lmdb(folder / "cut-row.aselmdb", {b"1": zlib.compress(json.dumps(row).encode())[:-20]})
    packed("not-json.aselmdb", b"{'numbers': [14, 14]}")
    packed("deep.aselmdb", b"[" * 100_000 + b"]" * 100_000)
    packed("no-numbers.aselmdb", b'{"positions": [[0, 0, 0]]}')
    rows("false-shape.aselmdb", positions=array([10**12, 3], "float64", [0.0] * 6))
    rows("objects.aselmdb", positions=array([2, 3], "O", [0.0] * 6))
    rows("element-200.aselmdb", numbers=[14, 200])
    rows("fractional-element.aselmdb", numbers=[14, 14.5])
    rows("short-forces.aselmdb", forces=[[0, 0, 0]])
    rows("word-for-energy.aselmdb", energy="low")
    rows("infinite-energy.aselmdb", energy=float("inf"))
    rows("giant-energy.aselmdb", energy=-1e300)
    rows("giant-stress.aselmdb", stress=[1e9] * 6)
    rows("stress-of-four.aselmdb", stress=[1, 2, 3, 4])
    rows("nan-position.aselmdb", positions=[[0, 0, 0], [float("nan"), 0, 0]])
    rows("zero-cell.aselmdb", cell=[[0, 0, 0]] * 3)
    rows("odd-pbc.aselmdb", pbc=[True, "yes", False])
    rows("fixed-outside.aselmdb", constraints=[{"name": "FixAtoms", "kwargs": {"indices": [7]}}])
    rows("odd-constraint.aselmdb", constraints=[{"name": "Hookean", "kwargs": {"a1": 0, "a2": 1, "k": 5}}])


class Payload:
    """What unpickling would run."""

    def __init__(self, call: Any, *given: Any) -> None:
        self.made = (call, given)

    def __reduce__(self) -> Any:
        return self.made


def pickles(folder: Path) -> None:
    import os

    atoms = formats.relaxation(1)[0]
    values = formats.ocp_values(atoms, 0)

    def put(name: str, record: bytes) -> None:
        formats.write_lmdb(folder / name, {b"0": record})

    def changed(name: str, **more: Any) -> None:
        put(name, formats.ocp_record({**values, **more}))

    run = 'open("payload-ran", "w").close()'
    put("runs-a-command.lmdb", pickle.dumps(Payload(os.system, "touch payload-ran")))
    put("evaluates.lmdb", pickle.dumps(Payload(eval, run)))
    changed("runs-in-a-field.lmdb", tags=Payload(exec, run))
    nested = pickle.dumps(Payload(exec, run))
    put(
        "runs-in-a-tensor.lmdb",
        b"\x80\x04ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(nested)) + nested + b"tR.",
    )
    put("opens-a-module.lmdb", b"\x80\x04cantigravity\nfly_to\n.")
    put("dotted-name.lmdb", b"\x80\x04\x8c\x0ctorch._utils\x8c\x19_rebuild_tensor.__class__\x93.")
    put("sets-a-builder.lmdb", b"\x80\x04cnumpy\ndtype\n}\x8c\x06_buildK\x01sb.")
    put("memo.lmdb", b"\x80\x04K\x01r\xff\xff\xff\x7f0K\x01.")
    put("huge-bytes.lmdb", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.")
    put("cut-pickle.lmdb", formats.ocp_record(values)[:200])
    put("number.lmdb", pickle.dumps(7, protocol=4))
    put("no-positions.lmdb", formats.ocp_record({"atomic_numbers": torch.tensor([14.0])}))
    whole = formats.ocp_record(values)
    size = struct.pack("<q", 6)
    put("false-storage.lmdb", whole.replace(size, struct.pack("<q", 2**40)))
    put("false-stride.lmdb", whole.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))
    changed("nan-position.lmdb", pos=torch.full((2, 3), float("nan")))
    changed("mixed-lengths.lmdb", pos=torch.zeros((5, 3)))
    changed("element-0.lmdb", atomic_numbers=torch.tensor([0.0, 14.0]))
    changed("no-cell.lmdb", cell=torch.zeros((1, 3, 3)))


def vasp(folder: Path) -> None:
    frames = formats.relaxation()
    xml = formats.vasprun(frames)

    def trial(name: str, **files: str) -> None:
        place = folder / name / "Unperturbed"
        place.mkdir(parents=True, exist_ok=True)
        for which, text in files.items():
            (place / which).write_text(text)

    def poscar(atoms: Any) -> str:
        write_vasp(folder / "POSCAR", atoms)
        text = (folder / "POSCAR").read_text()
        (folder / "POSCAR").unlink()
        return text

    strained = frames[-1].copy()
    strained.set_cell(strained.cell.array * 1.05)
    start, end = poscar(frames[0]), poscar(frames[-1])
    trial("never-run", POSCAR=start)
    trial("empty-contcar", POSCAR=start, CONTCAR="")
    trial("cut-contcar", POSCAR=start, CONTCAR=end[: len(end) // 2])
    trial("huge-contcar", POSCAR=start, CONTCAR=re.sub(r"\n *2 *\n", "\n 2000000000\n", end))
    trial("no-scale", POSCAR=start, CONTCAR="\n".join(["Si", "0.0", *end.splitlines()[2:]]) + "\n")
    trial("other-cell", POSCAR=start, CONTCAR=poscar(strained))
    trial(
        "swapped", POSCAR=poscar(bulk("CdTe", "zincblende", a=6.5)), CONTCAR=poscar(bulk("TeCd", "zincblende", a=6.5))
    )
    trial("aliases", POSCAR=start, CONTCAR=end)
    anchors = "\n".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1, 1'}]" for i in range(12))
    (folder / "aliases" / "energies.yaml").write_text(f"{anchors}\ndistortions:\n  Unperturbed: *a11\n")
    trial("diverged", POSCAR=start, CONTCAR=end, **{"vasprun.xml": xml.replace("-10.0", "nan")})
    (folder / "cut-vasprun.xml").write_text(xml[: len(xml) * 2 // 3])
    (folder / "early-vasprun.xml").write_text(xml[:400])
    lol = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10 if k else "lol"}">' for k in range(10))
    (folder / "entities-vasprun.xml").write_text(xml.replace("<modeling>", f"<modeling>\n<!DOCTYPE m [{lol}]>", 1))
    (folder / "stars-vasprun.xml").write_text(xml.replace("0.5 0.0 0.0", "*** 0.0 0.0"))
    (folder / "cut-OUTCAR").write_text(" vasp.6.3.0 20Jan22 complex\n ions per type =   2\n")
    (folder / "huge-OUTCAR").write_text(" vasp.6.3.0 20Jan22 complex\n ions per type =   2000000000\n Iteration 1\n")
    (folder / "cut-vasprun.xml.gz").write_bytes(zlib.compress(xml.encode(), wbits=31)[:-40])


def json_and_cif(folder: Path) -> None:
    frames = formats.relaxation(2)
    document = json.dumps(formats.mptrj(frames))
    structure = formats.pymatgen_structure(frames[0])
    split = [{"element": "Si", "occu": 0.5}, {"element": "Ge", "occu": 0.5}]

    def put(name: str, value: Any) -> None:
        (folder / name).write_text(json.dumps(value))

    (folder / "cut-mptrj.json").write_text(document[: len(document) // 2])
    put("no-lattice.json", {**structure, "lattice": None})
    put("disordered.json", {**structure, "sites": [{**structure["sites"][0], "species": split}]})
    put("odd-element.json", {**structure, "sites": [{**structure["sites"][0], "species": [{"element": "Qq"}]}]})
    put("nan-site.json", {**structure, "sites": [{**structure["sites"][0], "xyz": [float("nan"), 0, 0]}]})
    put("nothing.json", {"@module": "pymatgen.core", "@class": "Element"})
    (folder / "huge-number.json").write_text('{"numbers": [14], "positions": [[' + "9" * 5000 + ", 0, 0]]}")
    (folder / "deep.json").write_text('{"numbers": ' + "[" * 100_000 + "]" * 100_000 + "}")
    put("empty-rows.json", {"ids": [], "nextid": 1, "numbers ": 0, "positions": 0})
    write(folder / "good.cif", frames[0])
    cif = (folder / "good.cif").read_text()
    (folder / "good.cif").unlink()
    for name, pattern, text in (
        ("negative-length.cif", r"(_cell_length_a +)[\d.]+", r"\g<1>-5.43"),
        ("word-for-length.cif", r"(_cell_length_a +)[\d.]+", r"\g<1>long"),
        ("giant-length.cif", r"(_cell_length_a +)[\d.]+", r"\g<1>1e30"),
        ("flat-angles.cif", r"(_cell_angle_alpha +)[\d.]+", r"\g<1>0"),
        ("impossible-angles.cif", r"(_cell_angle_alpha +)[\d.]+", r"\g<1>179"),
        ("partial.cif", r"1\.0000\b", "0.5000"),
        ("no-atoms.cif", r"(?s)loop_\s+_atom_site.*", ""),
        ("odd-group.cif", r"(_space_group_IT_number +)\d+", r"\g<1>999"),
        ("odd-element.cif", r"\bSi( +)Si1\b", r"Qq\g<1>Qq1"),
        ("nan-site.cif", r"(Si1 +1\.0 +)[\d.]+", r"\g<1>nan"),
    ):
        (folder / name).write_text(re.sub(pattern, text, cif))


def main() -> None:
    """Write all of them anew."""
    for path in HERE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "make.py":
            path.unlink()
    for name, content in text_files().items():
        (HERE / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for write_files in (ase_files, databases, lmdbs, pickles, vasp, json_and_cif):
        write_files(HERE)


if __name__ == "__main__":
    main()
