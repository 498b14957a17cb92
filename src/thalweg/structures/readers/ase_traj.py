"""ASE's trajectories (`.traj`): one relaxation a file, frames in order."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ase import Atoms
from ase.io.trajectory import TrajectoryReader as AseReader

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import full_stress
from thalweg.structures.readers.snapshots import Broken, Snapshot
from thalweg.structures.readers.trajectories import TrajectoryReader

_HEAD = struct.Struct("<8s16sqqq")  # "- of Ulm", tag, version, number of frames, where their offsets are


class AseTrajectory(TrajectoryReader):
    """A file that begins as ASE's container format with the tag of a trajectory."""

    name: ClassVar[str] = "ASE trajectory (.traj)"

    def opens(self, file: Path) -> bool:
        """Whether it begins with the container's magic and the trajectory's tag."""
        with file.open("rb") as opened:
            head = opened.read(24)
        return head[:8] == b"- of Ulm" and head[8:].rstrip(b"\0 ") == b"ASE-Trajectory"

    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield frames in order; one that cannot be decoded is broken, the rest goes on."""
        count = _frames(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions; what matters is checked here
            with file.open("rb") as opened, AseReader(opened) as trajectory:
                for index in range(count):
                    place = f"frame {index}"
                    try:
                        yield labelled(trajectory[index], place, file.stem, index)
                    except StructureError as error:
                        yield Broken(place, str(error))
                    except Exception as error:  # ASE's parser fails in many ways: each becomes one line
                        yield Broken(
                            place, f"not readable ({' '.join(str(error).split())[:100] or type(error).__name__})"
                        )


def labelled(atoms: Atoms, place: str, relaxation: str, order: float, *, free_energy: bool = False) -> Snapshot:
    """Make a snapshot of ASE Atoms with the labels that their calculator holds.

    Args:
        atoms: as ASE read them; stress in Voigt order, eV/Å³, positive under tension.
        place: where they stand.
        relaxation: what they belong to.
        order: their place there.
        free_energy: prefer the energy that forces derive from (of smeared electrons) where there is one.
    """
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    energy = results.get("energy")
    if free_energy and results.get("free_energy") is not None:
        energy = results["free_energy"]
    return Snapshot(place, relaxation, order, atoms, energy, results.get("forces"), full_stress(results.get("stress")))


def _frames(file: Path) -> int:
    """Return how many frames the head announces, checked against the size of the file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise StructureError("cut inside its head: the file is truncated")
    _, _, version, count, offsets = _HEAD.unpack(head)
    if not 1 <= version <= 3:
        raise StructureError(f"version {version} of ASE's container format: known are 1 to 3: the file is damaged")
    if count == 0:
        raise StructureError("a trajectory without frames: nothing was written to it")
    if count < 0 or offsets < _HEAD.size or offsets + 8 * count > size:
        raise StructureError(f"{count} frames announced in {size} bytes: the file is truncated or damaged")
    return count
