"""Mutations of valid files: what a reader makes of them must be data or one of our errors, in bounded time and memory.

`python -m tests.structures.fuzzing 10000` runs that many over all formats, by turns (`make fuzz`).
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ase.io import write
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from tests.structures import formats

from thalweg.errors import ThalwegError
from thalweg.structures.extended_xyz import write_frames
from thalweg.structures.readers import ImportRules, import_frames
from thalweg.structures.readers.ase_json import AseJson
from thalweg.structures.readers.ase_lmdb import AseLmdb
from thalweg.structures.readers.ase_sqlite import AseSqlite
from thalweg.structures.readers.ase_traj import AseTrajectory
from thalweg.structures.readers.cif import Cif
from thalweg.structures.readers.contract import Reader
from thalweg.structures.readers.extxyz import ExtendedXyz
from thalweg.structures.readers.ocp_lmdb import OcpLmdb
from thalweg.structures.readers.plain_pickles import load_record
from thalweg.structures.readers.pymatgen_json import PymatgenJson
from thalweg.structures.readers.vasp_folders import VaspFolders
from thalweg.structures.readers.vasp_output import VaspOutput

SLOWEST = 5.0
"""Seconds of processor time that no case may reach: a whole file takes some milliseconds."""
TOKENS = (
    b"nan",
    b"-1",
    b"1e308",
    b"99999999999",
    b"0",
    b"null",
    b"[",
    b"}",
    b"\xff\xff\xff\x7f",
    b"\0" * 8,
    b" ",
    b"Qq",
)


def read_as(reader: Reader) -> Callable[[Path], None]:
    """Return what reads a file as one format, as frames and as pairs, broken records skipped and not."""

    def read(path: Path) -> None:
        for call in (reader.frames, reader.pairs):
            for skip in (False, True):
                try:
                    call(path, ImportRules(skip_broken=skip))
                except ThalwegError as error:
                    if "\n" in str(error) or len(str(error)) > 2000:
                        raise AssertionError(f"not one clear line: {error}") from error

    return read


def read_pickle(path: Path) -> None:
    """Open a pickled record."""
    try:
        load_record(path.read_bytes())
    except ThalwegError as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {error}") from error


def read_trial(path: Path) -> None:
    """Read a CONTCAR beside a sound POSCAR."""
    trial = path.parent / "trial"
    trial.mkdir(exist_ok=True)
    write(trial / "POSCAR", formats.relaxation()[0], format="vasp")
    (trial / "CONTCAR").write_bytes(path.read_bytes())
    read_as(VaspFolders())(trial)


@cache
def targets() -> dict[str, tuple[bytes, Callable[[Path], None]]]:
    """Return valid bytes of every format and what reads them."""
    frames = formats.relaxation()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        formats.write_traj(folder / "traj", frames)
        write_frames(folder / "extxyz", import_frames(folder / "traj").frames)
        formats.write_database(folder / "sqlite", frames, "db")
        formats.write_database(folder / "json", frames, "json")
        formats.write_aselmdb(folder / "aselmdb", frames)
        formats.write_s2ef(folder / "ocp", frames, layout="new")
        (folder / "pickle").write_bytes(formats.ocp_record(formats.ocp_values(frames[0], 0), protocol=2))
        (folder / "vasprun").write_text(formats.vasprun(frames))
        (folder / "outcar").write_text(formats.OUTCAR)
        (folder / "mptrj").write_text(json.dumps(formats.mptrj(frames)))
        write(folder / "cif", frames, format="cif")
        readers = {
            **{"traj": AseTrajectory(), "extxyz": ExtendedXyz(), "sqlite": AseSqlite(), "json": AseJson()},
            **{"aselmdb": AseLmdb(), "ocp": OcpLmdb(), "vasprun": VaspOutput(), "outcar": VaspOutput()},
            **{"mptrj": PymatgenJson(), "cif": Cif()},
        }
        made = {kind: ((folder / kind).read_bytes(), read_as(reader)) for kind, reader in readers.items()}
        write(folder / "contcar", frames[-1], format="vasp")
        made["contcar"] = ((folder / "contcar").read_bytes(), read_trial)
        return {**made, "pickle": ((folder / "pickle").read_bytes(), read_pickle)}


@st.composite
def mutations(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return bytes with one to four faults: flips, cuts, splices, tokens in the midst, numbers overwritten."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 5)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[at:]
            case 2:
                start = draw(st.integers(0, len(whole) - 1))
                data[at:at] = whole[start : start + draw(st.integers(1, 200))]
            case 3:
                token = draw(st.sampled_from(TOKENS))
                data[at : at + len(token)] = token
            case 4:
                del data[at : at + draw(st.integers(1, 100))]
            case _:
                data[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
    return bytes(data)


def fuzz(kind: str, cases: int, number: int = 0) -> tuple[float, int]:
    """Read mutations of one format; return the longest processor time of a case and how many there were."""
    whole, read = targets()[kind]
    longest, count = 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "data"

        @seed(number)
        @settings(
            max_examples=cases, database=None, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(mutations(whole))
        def one(data: bytes) -> None:
            nonlocal longest, count
            path.write_bytes(data)
            begun = time.process_time()
            read(path)
            took = time.process_time() - begun
            longest, count = max(longest, took), count + 1
            if took > SLOWEST:
                raise AssertionError(f"{took:.1f} s for a file of {len(data)} bytes")

        one()
    return longest, count


def main(cases: int) -> None:
    """Run the given number of cases over all formats and print what was seen."""
    total = 0
    for kind in targets():
        begun = time.process_time()
        longest, count = fuzz(kind, -(-cases // len(targets())), number=2718)
        total += count
        print(f"{kind}: {count} cases, {time.process_time() - begun:.0f} s, longest {longest:.2f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{total} cases, nothing but data and one-line errors; peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]))
