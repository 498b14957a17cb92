"""Pairs from VASP relaxations in ShakeNBreak's folders: POSCAR is the start, CONTCAR the minimum.

    vac_1_Cd_0/                      one defect: the parent of its pairs
        vac_1_Cd_0.yaml              final energies (eV) by distortion
        Bond_Distortion_-60.0%/      one trial, POSCAR and CONTCAR
        Unperturbed/

A folder of such defect folders is read as a whole. VASP wraps atoms into the box, so CONTCAR positions are
moved by lattice vectors to lie nearest to the start. Cells that changed are not pairs of a fixed-cell
relaxation: skipped.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.io.vasp import read_vasp

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.lattice import shortest_images
from thalweg.structures.overlap import refuse_overlaps
from thalweg.structures.pairs import Pairs, refuse_other_atoms
from thalweg.structures.readers.contract import Imported, Reader

_DISTORTION = re.compile(r"Bond_Distortion_(?P<percent>[-+]?\d+(?:\.\d+)?)%(?P<rest>.*)")
_CELL_TOLERANCE = 1e-3  # Å; POSCARs are often written with six decimals
_AMBIGUOUS = 0.45  # of the distance between lattice planes: beyond it another image is nearly as near


@dataclass(frozen=True)
class _Energies:
    """The energies (eV) of one defect by distortion: numbers for bond distortions, names for the rest."""

    source: str
    by_key: Mapping[float | str, Any]

    def of(self, trial: str) -> tuple[float, str | None]:
        """Return the energy of a trial folder, NaN with a note if there is none."""
        match = _DISTORTION.fullmatch(trial)
        for key, value in self.by_key.items():
            if match and not match["rest"] and isinstance(key, int | float):
                found = abs(float(key) - float(match["percent"]) / 100) < 1e-6
            else:
                found = str(key) in (trial, trial.removeprefix("Bond_Distortion_"))
            if found:
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    return float(value), None
                return (
                    math.nan,
                    f"{trial}: the energy in {self.source} is {value!r}, not a number: left unknown",
                )
        return math.nan, f"{trial}: {self.source} has no energy for it: left unknown"


class VaspFolders(Reader):
    """A defect folder of ShakeNBreak, or a folder of them."""

    name: ClassVar[str] = "folder of VASP relaxations (POSCAR and CONTCAR per trial)"

    def recognises(self, path: Path) -> bool:
        """Whether there are sub-folders with a POSCAR, at one level or two."""
        try:
            return bool(_defects(path))
        except OSError:
            return False

    def read(self, path: Path) -> Imported:
        """Read every trial of every defect at `path`; trials that are no pair are skipped with a reason."""
        parts: list[Pairs] = []
        notes: list[str] = []
        skipped: list[tuple[str, str]] = []
        for defect in _defects(path):
            for trial, result in _read_defect(defect, notes):
                if isinstance(result, Pairs):
                    parts.append(result)
                else:
                    skipped.append((str(trial), result))
        if not parts:
            first = f" (the first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
            raise StructureError(f"{path}: none of {len(skipped)} trial folders is a usable pair{first}")
        return Imported(pairs=Pairs.concatenate(parts), notes=tuple(notes), skipped=tuple(skipped))


def _defects(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if _trials(path):
        return [path]
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _trials(folder)]


def _trials(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if (folder / "POSCAR").is_file())


def _read_defect(defect: Path, notes: list[str]) -> list[tuple[Path, Pairs | str]]:
    energies, parent = _energies(defect, notes)
    results: list[tuple[Path, Pairs | str]] = []
    for trial in _trials(defect):
        name = f"{parent}/{trial.name}"
        energy, note = (math.nan, None) if energies is None else energies.of(trial.name)
        try:
            start, minimum, doubt = _read_trial(trial, name)
        except StructureError as error:
            results.append((trial, str(error)))
            continue
        notes.extend(f"{parent}: {line}" for line in (note, doubt) if line)
        label = None if energies is None else torch.tensor([energy], dtype=torch.float64)
        results.append((trial, Pairs(start, minimum, (parent,), energy_minimum=label)))
    return results


def _energies(defect: Path, notes: list[str]) -> tuple[_Energies | None, str]:
    """Return the energies beside the trials and the name of the defect (the file's, else the folder's)."""
    files = [f for f in sorted(defect.glob("*.yaml")) if _mapping(f) is not None]
    if len(files) != 1:
        found = "no file" if not files else f"{len(files)} files ({', '.join(f.name for f in files)})"
        notes.append(
            f"{defect.name}: {found} with a 'distortions' map of energies: energies are left unknown"
        )
        return None, defect.resolve().name
    document = _mapping(files[0]) or {}
    named = {key: value for key, value in document.items() if key != "distortions"}
    return _Energies(files[0].name, {**document["distortions"], **named}), files[0].stem


def _mapping(path: Path) -> dict[float | str, Any] | None:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StructureError(f"{path}: not readable as YAML ({reason}): mend or remove it") from error
    usable = isinstance(document, dict) and isinstance(document.get("distortions"), dict)
    return document if usable else None


def _read_trial(trial: Path, name: str) -> tuple[Structures, Structures, str | None]:
    start, minimum = _read_vasp(trial / "POSCAR"), _read_vasp(trial / "CONTCAR")
    change = float(np.abs(start.cell.array - minimum.cell.array).max())
    if change > _CELL_TOLERANCE:
        raise StructureError(
            f"the cell changed by {change:.4f} Å: only relaxations in a fixed cell are pairs here"
        )
    refuse_other_atoms(name, torch.tensor(start.numbers), torch.tensor(minimum.numbers))
    minimum.set_cell(start.cell, scale_atoms=True)  # type: ignore[no-untyped-call]
    doubt = _bring_near(minimum, start, trial.name)
    minimum.set_constraint(start.constraints)  # type: ignore[no-untyped-call]
    batches = [Structures.from_atoms(frame, ids=[name]) for frame in (start, minimum)]
    for which, batch in zip(("POSCAR", "CONTCAR"), batches, strict=True):
        try:
            refuse_overlaps(batch)
        except StructureError as error:
            raise StructureError(f"{which}: {error}") from error
    return batches[0], batches[1], doubt


def _bring_near(minimum: Atoms, start: Atoms, trial: str) -> str | None:
    """Move atoms of the minimum by lattice vectors next to the start; say so where two images are alike."""
    moved = minimum.positions - start.positions
    images = shortest_images(moved, start.cell.array, start.pbc)
    minimum.positions = minimum.positions + images @ start.cell.array
    distances = np.linalg.norm(minimum.positions - start.positions, axis=1)
    least_height = 1.0 / np.linalg.norm(np.linalg.inv(start.cell.array), axis=0).max()
    atom = int(distances.argmax())
    if distances[atom] > _AMBIGUOUS * least_height:
        return (
            f"{trial}: atom {atom} moved {distances[atom]:.2f} Å, nearly half the cell: which periodic image "
            "it went to is uncertain, the nearest is kept"
        )
    return None


def _read_vasp(path: Path) -> Atoms:
    if not path.is_file():
        raise StructureError(f"no {path.name}: the relaxation was not run or not finished")
    if path.stat().st_size == 0:
        raise StructureError(f"{path.name} is empty: the relaxation was not run or not finished")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the header; what matters is checked below
            frame: Atoms = read_vasp(path)
    except Exception as error:  # ASE's parser fails in many ways on a broken file: each becomes one line
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise StructureError(f"{path.name} is not readable ({reason})") from error
    return frame
