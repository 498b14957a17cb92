"""Every broken file of `tests/data/broken`: one clear line, exit status 2, nothing written and nothing run.

The files were made by `tests/data/broken/make.py`; the lines below are what a user reads after the name of the file.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from tests.cli.terminal import complaint, thalweg, untouched
from tests.data.broken.make import Payload
from thalweg.errors import StructureError
from thalweg.structures.readers import json_files
from thalweg.structures.readers.plain_pickles import load_record

BROKEN = Path(__file__).parents[1] / "data" / "broken"
GOOD_AS_FRAMES = {"mixed-cells.traj", "not-relaxed.traj", "one-frame.traj"}
"""No pairs, and sound as labelled frames."""
FRAMES_ONLY = {"missing-forces.extxyz", "missing-energy.extxyz", "nan-forces.extxyz", "duplicate-frame.extxyz"}
"""Frames: the fault is looked for where frames are asked for."""

REFUSED = {
    "aliases": "/energies.yaml: not readable as YAML (aliases (*name) are not allowed here): m",
    "archive.zip": "no reader recognises this",
    "binary-junk.extxyz": "no reader recognises this",
    "blank.extxyz": "no reader recognises this",
    "bomb.aselmdb": ", row 1: 65241 bytes unpack to more than 64 MiB, which no structure needs: ref",
    "circle.aselmdb": "LMDB page 4 is met twice: the file is damaged",
    "cut-OUTCAR": "not readable as VASP's output (Incomplete OUTCAR): truncated or damaged",
    "cut-contcar": "CONTCAR is not readable",
    "cut-in-head.traj": "cut inside its head: the file is truncated",
    "cut-in-meta.aselmdb": "cut inside an LMDB meta page: the file is truncated",
    "cut-in-row.extxyz": ", frame 1 (line 5): line 8 has 2 entries and the atom before it 4: the file is",
    "cut-mptrj.json": "not JSON (Expecting ',' delimiter: line 1 column 827 (char 826)): the record i",
    "cut-pickle.lmdb": ", key 0: a damaged pickle (pickle exhausted before end of frame)",
    "cut-row.aselmdb": ", row 1: compressed data end too early: the record is cut",
    "cut-vasprun.xml": ", after step 0: ends before the closing lines of VASP: the run was cut off or",
    "cut-vasprun.xml.gz": "damaged compression (Compressed file ended before the end-of-stream marker was",
    "cut.aselmdb": "LMDB page 4 of 2: the file is truncated or damaged",
    "cut.db": "not readable as an ASE database (database disk image is malformed): the file i",
    "cut.extxyz": ", frame 1 (line 5): 2 atoms announced but 1 lines follow: the file is cut shor",
    "cut.traj": ", frame 2: not readable (buffer is smaller than requested size)",
    "deep.aselmdb": ", row 1: not JSON (maximum recursion depth exceeded while decoding a JSON arra",
    "deep.json": "not JSON (maximum recursion depth exceeded while decoding a JSON array from a",
    "disordered.json": ", top: site 0 holds several species or none: only ordered structures can be us",
    "diverged": "vasprun.xml, step 0: energy not finite: mend it or leave it out)",
    "dotted-name.lmdb": ", key 0: the pickle asks for torch._utils._rebuild_tensor.__class__, which is",
    "dummy-element.extxyz": ", frame 1 (line 5): atom 1 is of no known element: give a chemical symbol",
    "duplicate-frame.extxyz": "frame id 'a' occurs at 0 and 1: give each its own id",
    "duplicate-id.extxyz": ", frame 2 (line 9): pair 'x' has a second start; the first is frame 0",
    "early-vasprun.xml": "not readable as VASP's output (unclosed token: line 7, column 93): truncated o",
    "eight-numbers.extxyz": ", frame 1 (line 5): not a block of extended XYZ (Got info item Lattice, expect",
    "element-0.lmdb": ", key 0: an atomic number outside 1 to 118: mend the file",
    "element-200.aselmdb": ", row 1: atom 1 has atomic number 200: allowed are 1 to 118",
    "empty-contcar": "CONTCAR is empty: the relaxation was not run or not finished)",
    "empty-rows.json": "no structure in it",
    "empty-table.db": "no structure in it",
    "empty.extxyz": "the file is empty: give at least one structure",
    "entities-vasprun.xml": "it declares entities, which VASP never writes: refused",
    "evaluates.lmdb": ", key 0: the pickle asks for builtins.eval, which is no plain data: refused, n",
    "false-shape.aselmdb": ", row 1: not JSON (cannot reshape array of size 6 into shape (1000000000000,3)",
    "false-storage.lmdb": ", key 0: a damaged pickle (a storage of 6 numbers with 24 bytes: cut or damage",
    "false-stride.lmdb": ", key 0: a damaged pickle (a tensor of shape (255, 255) over 6 numbers)",
    "fixed-outside.aselmdb": ", row 1: a constraint names atom 7 of 2: mend the file",
    "flat-angles.cif": ", block 0: not readable as CIF (Singular matrix)",
    "flat-cell.extxyz": ", frame 1 (line 5): structure 'x': periodic along [True, True, True] but the c",
    "fractional-element.aselmdb": ", row 1: numbers are not whole numbers: [14, 14.5]",
    "giant-cell.extxyz": ", frame 1 (line 5): structure 'x': a lattice vector of 1e+20 Å: allowed is up",
    "giant-energy.aselmdb": ", row 1: energy up to 1e+300 eV: allowed is up to 1e+09: check the units",
    "giant-forces.traj": ", frame 0: forces up to 5e+11 eV/Å: allowed is up to 1e+06: check the units",
    "giant-length.cif": ", block 0: structure 'giant-length': a coordinate of 2.59e+29 Å: allowed is up",
    "giant-position.extxyz": ", frame 1 (line 5): structure 'x': a coordinate of 1e+30 Å: allowed is up to 1",
    "giant-stress.aselmdb": ", row 1: stress up to 1e+09 eV/Å³: allowed is up to 1e+04: check the units",
    "head-only.db": "not readable as an ASE database (database disk image is malformed): the file i",
    "huge-OUTCAR": "2000000000 atoms announced in 71 characters: truncated or damaged",
    "huge-array.traj": ", frame 0: not readable (cannot reshape array of size 272 into shape (9999,))",
    "huge-bytes.lmdb": ", key 0: a damaged pickle (EOFError)",
    "huge-contcar": "CONTCAR is not readable (2000000000 atoms announced but 11 lines in all: cut o",
    "huge-count.extxyz": ", frame 0 (line 1): 9999999999999 atoms announced but 6 lines follow: the file",
    "huge-count.traj": "1152921504606846976 frames announced in 2249 bytes: the file is truncated or d",
    "huge-number.json": "not JSON (Exceeds the limit (4300 digits) for integer string conversion: value",
    "impossible-angles.cif": ", block 0: structure 'impossible-angles': lattice planes 0.0948 Å apart; allow",
    "infinite-energy.aselmdb": ", row 1: energy not finite: mend it or leave it out",
    "infinite-position.extxyz": ", frame 1 (line 5): structure 'x': position of atom 1 is [inf 0. 0.], not fi",
    "latin-1.extxyz": "no reader recognises this",
    "memo.lmdb": ", key 0: no 'pos' and 'atomic_numbers': this is no record of OC20 or OC22",
    "missing-energy.extxyz": ", frame 0 (line 1): no energy: force matching needs energy and forces in every",
    "missing-forces.extxyz": ", frame 0 (line 1): no forces: force matching needs energy and forces in every",
    "mixed-cells.traj": "the cell changed by 0.2715 Å: only relaxations in a fixed cell are pairs here)",
    "mixed-lengths.lmdb": ", key 0: pos of shape (5, 3) where (2, 3) is due",
    "mixed-pbc.extxyz": "pair 'x': periodic along [True, True, True] in the start and [True, True, Fals",
    "nan-cell.extxyz": ", frame 1 (line 5): structure 'x': the cell has entries that are not finite: [",
    "nan-energy.extxyz": ", frame 1 (line 5): energy is not finite numbers: mend it or leave energy out",
    "nan-forces.extxyz": ", frame 0 (line 1): forces is not finite numbers: mend it or leave forces out",
    "nan-frame.traj": ", frame 1: structure 'nan-frame': position of atom 0 is [ 0. 0. nan], not fin",
    "nan-position.aselmdb": ", row 1: structure 'relax-a': position of atom 1 is [nan 0. 0.], not finite:",
    "nan-position.extxyz": ", frame 1 (line 5): structure 'x': position of atom 1 is [nan 0. 0.], not fi",
    "nan-position.lmdb": ", key 0: structure '7': position of atom 0 is [nan nan nan], not finite: mend",
    "nan-site.cif": ", block 0: not readable as CIF (ufunc 'matmul' did not contain a loop with sig",
    "nan-site.json": ", top: structure 'nan-site': position of atom 0 is [nan 0. 0.], not finite:",
    "nanometres.extxyz": ", frame 1 (line 5): structure 'x': atoms 0 and 1 are 0.024 Å apart; allowed is",
    "negative-count.extxyz": "no reader recognises this",
    "negative-count.traj": "-4 frames announced in 2249 bytes: the file is truncated or damaged",
    "negative-length.cif": ", block 0: a cell length that is not above 0: mend the file",
    "never-run": "no CONTCAR: the relaxation was not run or not finished)",
    "no-atoms.cif": ", block 0: no cell with atoms in the block: the file is truncated or of anothe",
    "no-cell.lmdb": ", key 0: structure '7': periodic along [True, True, True] but the cell has no",
    "no-frames.traj": "a trajectory without frames: nothing was written to it",
    "no-lattice.json": ", top: a structure without lattice and sites: it is damaged",
    "no-numbers.aselmdb": ", row 1: no 'numbers' and 'positions': this is no row of an ASE database",
    "no-positions.lmdb": ", key 0: no 'pos' and 'atomic_numbers': this is no record of OC20 or OC22",
    "no-role.extxyz": ", frame 0 (line 1): no role= on the comment line: pairs need pair=<id> and rol",
    "no-rows.aselmdb": "no structure in it",
    "no-scale": "the cell changed by 5.4300 Å: only relaxations in a fixed cell are pairs here)",
    "no-table.db": "an SQLite file without ASE's table of systems: it is no database of ASE",
    "node-outside.aselmdb": "an LMDB node lies outside its page: the file is damaged",
    "not-json.aselmdb": ", row 1: not JSON (Expecting property name enclosed in double quotes: line 1 c",
    "not-json.traj": "cannot be read (Expecting ',' delimiter: line 1 column 11 (char 10)): the file",
    "not-packed.aselmdb": ", row 1: damaged compression (Error -3 while decompressing data: incorrect hea",
    "not-relaxed.traj": "not relaxed: a force of 3.000 eV/Å is left at the end, allowed is 0.1)",
    "nothing.json": "no structure in it",
    "number.lmdb": ", key 0: no 'pos' and 'atomic_numbers': this is no record of OC20 or OC22",
    "objects.aselmdb": ", row 1: not JSON (an array of type 'O': allowed are numbers): the record is d",
    "objects.traj": ", frame 0: not readable (Cannot read into object array)",
    "odd-columns.db": "not readable as an ASE database (no such column: positions): the file is trunc",
    "odd-constraint.aselmdb": ", row 1: constraint Hookean is not supported; allowed: FixAtoms, FixCartesian",
    "odd-constraint.db": ", row 1: constraint os.system is not supported; allowed: FixAtoms, FixCartesia",
    "odd-element.cif": ", block 0: not readable as CIF ('Qq')",
    "odd-element.json": ", top: site 0 is 'Qq': no known element",
    "odd-group.cif": ", block 0: not readable as CIF (invalid spacegroup `999`, setting `1` not foun",
    "odd-pbc.aselmdb": ", row 1: pbc is [True, 'yes', False]: allowed are three of true and false",
    "odd-pbc.db": ", row 1: pbc is 99: allowed are 0 to 7",
    "odd-role.extxyz": ", frame 0 (line 1): role is 'end': allowed are start and minimum",
    "odd-version.traj": "version 99 of ASE's container format: known are 1 to 3: the file is damaged",
    "one-frame.traj": "one structure only: a relaxation needs a start and an end)",
    "opens-a-module.lmdb": ", key 0: the pickle asks for antigravity.fly_to, which is no plain data: refus",
    "other-cell": "the cell changed by 0.2715 Å: only relaxations in a fixed cell are pairs here)",
    "other-count.extxyz": ", frame 1 (line 5): pair 'x': the start has 2 atoms and the minimum 1: give th",
    "other-version.aselmdb": "LMDB data version 9: known is 1 (LMDB 0.9): rewrite it with mdb_dump and mdb_l",
    "overlap.extxyz": ", frame 1 (line 5): structure 'x': atoms 0 and 1 are 0.100 Å apart; allowed is",
    "partial.cif": ", block 0: sites are occupied in part: only ordered structures can be used",
    "permuted-species.extxyz": ", frame 1 (line 5): pair 'x': atom 0 has atomic number 14 in the start and 32",
    "prose.extxyz": ", frame 0 (line 1): not a block of extended XYZ ('bool' object has no attribut",
    "runs-a-command.lmdb": ", key 0: the pickle asks for posix.system, which is no plain data: refused, no",
    "runs-in-a-field.lmdb": ", key 0: the pickle asks for builtins.exec, which is no plain data: refused, n",
    "runs-in-a-tensor.lmdb": ", key 0: the pickle asks for builtins.exec, which is no plain data: refused, n",
    "sets-a-builder.lmdb": ", key 0: a damaged pickle (a function cannot be given a state)",
    "short-forces.aselmdb": ", row 1: forces of shape (1, 3) where (2, 3) is due: mend it or leave it out",
    "stars-vasprun.xml": "not readable as VASP's output (could not convert string to float: '***'): trun",
    "start-alone.extxyz": ", frame 0 (line 1): pair 'x' has a start but no minimum: add it or remove the",
    "stress-of-four.aselmdb": ", row 1: stress of shape (4,): allowed are six numbers (Voigt order) or nine",
    "stress-of-four.extxyz": ", frame 1 (line 5): not a block of extended XYZ (Got info item stress, expecti",
    "swapped": "pair 'swapped/Unperturbed': atom 0 has atomic number 48 in the start and 52 in",
    "text-numbers.db": ", row 1: numbers is no array of numbers: the row is damaged",
    "thin-cell.extxyz": ", frame 1 (line 5): structure 'x': lattice planes 1e-05 Å apart; allowed is 0.",
    "torn-blob.db": ", row 1: positions is no array of numbers: the row is damaged",
    "unknown-element.extxyz": ", frame 1 (line 5): not a block of extended XYZ ('Qq'): mend it or write it af",
    "utf-16.extxyz": "no reader recognises this",
    "view.db": "an SQLite file without ASE's table of systems: it is no database of ASE",
    "word-for-energy.aselmdb": ", row 1: energy: 'low' is not numbers: mend it or leave it out",
    "word-for-energy.extxyz": ", frame 1 (line 5): energy is not finite numbers: mend it or leave energy out",
    "word-for-length.cif": ", block 0: not readable as CIF (could not convert string to float: 'long')",
    "zero-cell.aselmdb": ", row 1: structure 'relax-a': periodic along [True, True, True] but the cell h",
    "zero-cell.extxyz": ", frame 1 (line 5): structure 'x': periodic along [True, True, True] but the c",
    "zeros.extxyz": "no reader recognises this",
}


def test_every_broken_file_has_its_line_and_every_line_its_file() -> None:
    assert {path.name for path in BROKEN.iterdir()} - {"make.py", "__pycache__"} == set(REFUSED)
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_file_is_one_line_and_leaves_nothing_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, out = BROKEN / name, tmp_path / "out.extxyz"
    with untouched(tmp_path):
        pairs = thalweg("data", "import", source, "--out", out)
        frames = thalweg("data", "import", source, "--out", out, "--frames") if name not in GOOD_AS_FRAMES else None
    faulty = frames if name in FRAMES_ONLY and frames is not None else pairs
    line = complaint(faulty, name, REFUSED[name])
    assert len(line) < 700
    for other in (pairs, frames):
        if other is not None:
            complaint(other, name)


@pytest.mark.parametrize("name", sorted(path.name for path in BROKEN.glob("*.extxyz")))
def test_the_commands_that_read_pairs_refuse_a_broken_file_alike(name: str, tmp_path: Path) -> None:
    source = BROKEN / name
    with untouched(tmp_path):
        complaint(thalweg("data", "describe", source), name)
        complaint(thalweg("data", "split", source, "--train", tmp_path / "a", "--held-out", tmp_path / "b"), name)


@pytest.mark.parametrize(
    "name", ["cut.traj", "objects.traj", "cut.db", "cut-mptrj.json", "odd-group.cif", "zeros.extxyz", "bomb.aselmdb"]
)
def test_labelling_refuses_a_broken_file_of_any_kind(name: str, tmp_path: Path) -> None:
    reference = "ase:ase.calculators.emt:EMT"
    with untouched(tmp_path):
        complaint(thalweg("data", "label", BROKEN / name, tmp_path / "out", "--reference", reference), name)


def test_the_payloads_are_live_and_were_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: Python's own loader runs what the refused pickles hold."""
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Payload(exec, 'open("payload-ran", "w").close()'))
    with pytest.raises(StructureError, match=r"asks for builtins\.exec, which is no plain data: refused, nothing was"):
        load_record(data)
    assert not (tmp_path / "payload-ran").exists()
    pickle.loads(data)
    assert (tmp_path / "payload-ran").exists()
    assert not list(BROKEN.rglob("payload-ran"))


def test_links_in_a_circle_and_to_nowhere_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for name in ("a", "gone"):
        done = thalweg("data", "import", tmp_path / name, "--out", tmp_path / "out.extxyz")
        complaint(done, f"{name}: is a symbolic link that leads nowhere or in a circle")
    assert not (tmp_path / "out.extxyz").exists()


def test_a_folder_that_holds_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / "in" / f"again{k}").symlink_to(tmp_path / "in")
    complaint(thalweg("data", "import", tmp_path / "in", "--out", tmp_path / "out"), "no reader recognises this")


def test_a_folder_without_data_a_missing_file_and_a_pipe_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("empty", "no reader recognises this"),
        ("missing", "there is no such file or folder"),
        ("pipe", "neither a file nor a folder"),
    ):
        complaint(thalweg("data", "import", tmp_path / name, "--out", tmp_path / "out"), f"{name}: {reason}")


def test_gzip_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(json_files, "LARGEST_TEXT", 8 << 20)  # a bomb of full size takes a second
    text = b'<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n' + b" " * (4 << 20)
    (tmp_path / "vasprun.xml.gz").write_bytes(gzip.compress(text))
    done = thalweg("data", "import", tmp_path / "vasprun.xml.gz", "--out", tmp_path / "out")
    complaint(done, "vasprun.xml.gz: unpacks to more than 1 MiB: refused")


def test_what_is_skipped_is_said_and_counted(tmp_path: Path) -> None:
    from tests.structures import formats

    for k in range(3):
        formats.write_traj(tmp_path / f"good{k}.traj", formats.relaxation())
    formats.write_traj(tmp_path / "short.traj", formats.relaxation(1))
    done = thalweg("data", "import", tmp_path, "--out", tmp_path / "out.extxyz")
    assert done.status == 0, done.err
    assert "skipped short: one structure only" in done.out
    assert done.out.splitlines()[-1].endswith("wrote 3 pairs to " + str(tmp_path / "out.extxyz") + "; skipped 1")
    for k in range(40):
        formats.write_traj(tmp_path / f"short{k}.traj", formats.relaxation(1))
    done = thalweg("data", "import", tmp_path, "--out", tmp_path / "out.extxyz", "--overwrite")
    assert "41 times: skipped short: one structure only" in done.out
    assert len(done.out.splitlines()) == 2
