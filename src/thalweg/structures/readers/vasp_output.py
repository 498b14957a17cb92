"""What VASP wrote of a run, `vasprun.xml` or `OUTCAR` (plain or gzip): one relaxation, one snapshot an ionic step.

The energy is the free energy of the smeared electrons, the one that forces derive from. VASP prints stress in kB,
positive under compression; ASE turns it into eV/Å³, positive under tension, in Voigt order. Fixed atoms come from the
selective dynamics of `vasprun.xml`, or of the `CONTCAR` or `POSCAR` beside an `OUTCAR`. A file that ends before VASP's
closing lines is a run that was cut off: its steps are read and the end is reported as broken.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from ase import Atoms
from ase.io.vasp import read_vasp_out, read_vasp_xml

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_traj import labelled
from thalweg.structures.readers.json_files import head_of, text_of
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader

_PER_TYPE = re.compile(r"ions per type =([ \d]+)")
_NIONS = re.compile(r"NIONS =\s*(\d+)")
_CUT = "ends before the closing lines of VASP: the run was cut off or the file is truncated"


class VaspOutput(TrajectoryReader):
    """A `vasprun.xml` or an `OUTCAR`, by content."""

    name: ClassVar[str] = "VASP output (vasprun.xml, OUTCAR)"

    def opens(self, file: Path) -> bool:
        """Whether it begins as VASP's XML or with VASP's version."""
        head = head_of(file)
        return _is_xml(head) or _is_outcar(head)

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield ionic steps in order."""
        text = text_of(file)
        xml = _is_xml(text[:1000].encode())
        ended = "</modeling>" in text[-1000:] if xml else "General timing and accounting" in text[-20000:]
        frames = _xml(text) if xml else _outcar(text, file)
        for index, atoms in enumerate(frames):
            yield labelled(atoms, f"step {index}", run_name(file), index, free_energy=True)
        if not ended:
            yield Broken(f"after step {len(frames) - 1}", _CUT)


def run_name(file: Path) -> str:
    """Return what a run is called: its folder, with the one above where that is a stage (`vasp_std`)."""
    folder = file.resolve().parent
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("vasp_") else folder.name


def _is_xml(head: bytes) -> bool:
    start = head.lstrip()[:400]
    return start.startswith(b"<?xml") and b"<modeling>" in start


def _is_outcar(head: bytes) -> bool:
    return re.match(rb"\s*vasp\.\d", head[:200]) is not None


def _xml(text: str) -> list[Atoms]:
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise StructureError("it declares entities, which VASP never writes: refused")
    return _parsed(lambda: list(read_vasp_xml(io.BytesIO(text.encode()), index=slice(None))))


def _outcar(text: str, file: Path) -> list[Atoms]:
    for pattern in (_PER_TYPE, _NIONS):
        for match in pattern.finditer(text):
            count = sum(int(number[:12]) for number in match[1].split())
            if count * 20 > len(text):
                raise StructureError(f"{count} atoms announced in {len(text)} characters: truncated or damaged")
    stream = io.StringIO(text)
    stream.name = str(file)  # ASE looks beside it for the POSCAR, whose selective dynamics it takes
    return _parsed(lambda: list(read_vasp_out(stream, index=slice(None))))


def _parsed(read: Callable[[], list[Atoms]]) -> list[Atoms]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of the parser; what matters is checked later
            frames = read()
    except Exception as error:  # ASE's parser fails in many ways on a broken file: each becomes one line
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise StructureError(f"not readable as VASP's output ({reason}): truncated or damaged") from error
    if not frames:
        raise StructureError("no finished ionic step: the run was cut off or the file is truncated")
    return frames
