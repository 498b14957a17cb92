"""Pairs from folders of VASP relaxations: POSCAR is the start, CONTCAR the minimum.

    vac_1_Cd_0/                      one defect: the parent of its pairs (ShakeNBreak)
        vac_1_Cd_0.yaml              final energies (eV) by distortion
        Bond_Distortion_-60.0%/      one trial, POSCAR and CONTCAR, here or in a folder vasp_std, vasp_gam, …
        Unperturbed/
    v_Cd_0/                          the same without distortions (doped): each stage of a calculation is a trial
        vasp_gam/  vasp_std/  …

A folder of such defect folders is read as a whole, and a folder with POSCAR and CONTCAR as one pair. Where a
vasprun.xml or OUTCAR lies beside the CONTCAR it gives the energies that the YAML file lacks, the forces at the start,
and the forces left at the end. VASP wraps atoms into the box, so CONTCAR positions are moved by lattice vectors to lie
nearest to the start. Cells that changed are not pairs of a fixed-cell relaxation: skipped.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.io.vasp import read_vasp

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.overlap import refuse_overlaps
from thalweg.structures.pairs import Pairs, refuse_other_atoms
from thalweg.structures.readers.contract import Imported, ImportedFrames, ImportRules, Reader
from thalweg.structures.readers.json_files import text_of
from thalweg.structures.readers.nearest_images import CELL_TOLERANCE, bring_near
from thalweg.structures.readers.snapshots import Broken, Sound, align_constraints, double, sound
from thalweg.structures.readers.trajectories import frames_of, refuse_unrelaxed
from thalweg.structures.readers.vasp_energies import Energies, read_energies
from thalweg.structures.readers.vasp_output import VaspOutput

_STAGES = ("vasp_std", "vasp_nkred_std", "vasp_gam", "vasp_relax")
_TRIAL = re.compile(r"Bond_Distortion_.*|Unperturbed.*|Rattled.*|Dimer.*")
_OUTPUTS = ("vasprun.xml", "vasprun.xml.gz", "OUTCAR", "OUTCAR.gz")


@dataclass(frozen=True)
class _Trial:
    parent: str
    path: Path
    defect: Path

    @property
    def name(self) -> str:
        """The pair's name: the parent's alone where that is its own only trial."""
        return self.parent if self.path == self.defect else f"{self.parent}/{self.path.name}"

    @property
    def folder(self) -> Path:
        """Where its POSCAR is."""
        return _place(self.path)


class VaspFolders(Reader):
    """A defect folder of ShakeNBreak or doped, a folder of them, or the folder of one relaxation."""

    name: ClassVar[str] = "folder of VASP relaxations (POSCAR and CONTCAR per trial)"

    def recognises(self, path: Path) -> bool:
        """Whether there is a POSCAR, here or in sub-folders at one level or two."""
        try:
            return bool(_defects(path))
        except OSError:
            return False

    def pairs(self, path: Path, rules: ImportRules) -> Imported:
        """Read every trial of every defect at `path`; trials that are no pair are skipped with a reason."""
        parts: list[Pairs] = []
        notes: list[str] = []
        skipped: list[tuple[str, str]] = []
        for defect in _defects(path):
            energies, parent, note = read_energies(defect)
            trials = _trials(defect)
            silent = not any(_output(_place(trial)) for trial in trials)
            notes.extend([note] if note and silent else [])
            for trial in trials:
                try:
                    pair, doubts = _pair(_Trial(parent, trial, defect), energies, rules)
                except StructureError as error:
                    skipped.append((str(trial), str(error)))
                    continue
                parts.append(pair)
                notes.extend(f"{parent}: {line}" for line in doubts)
        if not parts:
            first = f" (the first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
            raise StructureError(f"{path}: none of {len(skipped)} trial folders is a usable pair{first}")
        return Imported(pairs=Pairs.concatenate(parts), notes=tuple(notes), skipped=tuple(skipped))

    def frames(self, path: Path, rules: ImportRules) -> ImportedFrames:
        """Read the ionic steps of every trial that has a vasprun.xml or OUTCAR."""
        kept: list[Sound] = []
        skipped: list[tuple[str, str]] = []
        for defect in _defects(path):
            for trial in _trials(defect):
                try:
                    steps = _steps(_place(trial), rules)
                    if any(step.forces is None or step.energy is None for step in steps):
                        raise StructureError("a step without energy or forces")
                except StructureError as error:
                    skipped.append((str(trial), str(error)))
                    continue
                name = defect.resolve().name if trial == defect else f"{defect.resolve().name}/{trial.name}"
                kept.extend(replace(step, relaxation=name) for step in steps)
                if not steps:
                    skipped.append((str(trial), "no vasprun.xml and no OUTCAR: no forces"))
        if not kept:
            first = f" (the first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
            raise StructureError(f"{path}: none of {len(skipped)} trial folders has energies and forces{first}")
        return ImportedFrames(frames=frames_of(kept), skipped=tuple(skipped))


def _defects(path: Path) -> list[Path]:
    """Return folders of trials at `path`; one that has its own POSCAR is its own only trial."""
    if not path.is_dir():
        return []
    if _has_poscar(path) or _trials(path):
        return [path]
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _trials(folder)]


def _trials(path: Path) -> list[Path]:
    if _has_poscar(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and _has_poscar(_place(folder)))


def _has_poscar(folder: Path) -> bool:
    return (folder / "POSCAR").is_file() or (folder / "POSCAR.gz").is_file()


def _place(trial: Path) -> Path:
    """Return where the files of a trial are: in it, or in the last stage that a distortion's folder has."""
    if not _has_poscar(trial) and _TRIAL.fullmatch(trial.name):
        return next((trial / stage for stage in _STAGES if _has_poscar(trial / stage)), trial)
    return trial


def _output(folder: Path) -> Path | None:
    return next((folder / name for name in _OUTPUTS if (folder / name).is_file()), None)


def _steps(folder: Path, rules: ImportRules) -> list[Sound]:
    """Return the ionic steps of the run in a folder; none if it has no output."""
    file = _output(folder)
    if file is None:
        return []
    steps: list[Sound] = []
    for found in VaspOutput().snapshots(file):
        try:
            if isinstance(found, Broken):
                raise StructureError(found.reason)
            steps.append(sound(found))
        except StructureError as error:
            if not rules.skip_broken:
                raise StructureError(f"{file.name}, {found.place}: {error}") from error
    return steps


def _pair(trial: _Trial, energies: Energies | None, rules: ImportRules) -> tuple[Pairs, list[str]]:
    start, minimum, doubt = _read_trial(trial)
    steps = _steps(trial.folder, rules)
    energy, note = (math.nan, None) if energies is None else energies.of(trial.path.name)
    if steps:
        last = steps[-1]
        refuse_other_atoms(f"{trial.name}, its output", start.numbers, last.structure.numbers)
        refuse_unrelaxed(last, start, rules.fmax)
        if math.isnan(energy) and last.energy is not None:
            energy, note = last.energy, None
    first = steps[0] if steps and _same(steps[0], start) else None
    return (
        Pairs(
            start,
            minimum,
            (trial.parent,),
            energy_start=None if first is None or first.energy is None else _one(first.energy),
            energy_minimum=None if energies is None and math.isnan(energy) else _one(energy),
            forces_start=None if first is None or first.forces is None else double(first.forces),
        ),
        [line for line in (note, doubt) if line],
    )


def _same(step: Sound, start: Structures) -> bool:
    """Whether a step was computed at the start: the same atoms within 0.001 Å, through lattice vectors."""
    if not torch.equal(step.structure.numbers, start.numbers):
        return False
    there, here = step.structure.positions.numpy(), start.positions.numpy()
    near, _ = bring_near(there, here, start.cell[0].numpy(), start.pbc[0].numpy())
    return float(np.abs(near - here).max()) < CELL_TOLERANCE


def _one(energy: float) -> torch.Tensor:
    return torch.tensor([energy], dtype=torch.float64)


def _read_trial(trial: _Trial) -> tuple[Structures, Structures, str | None]:
    start, minimum = _read_vasp(trial.folder, "POSCAR"), _read_vasp(trial.folder, "CONTCAR")
    change = float(np.abs(start.cell.array - minimum.cell.array).max())
    if change > CELL_TOLERANCE:
        raise StructureError(f"the cell changed by {change:.4f} Å: only relaxations in a fixed cell are pairs here")
    refuse_other_atoms(trial.name, torch.tensor(start.numbers), torch.tensor(minimum.numbers))
    minimum.set_constraint()  # what is fixed, the start says
    batches = []
    for which, frame in (("POSCAR", start), ("CONTCAR", minimum)):
        align_constraints(frame)
        try:
            batches.append(Structures.from_atoms(frame, ids=[trial.name]))
            refuse_overlaps(batches[-1])
        except StructureError as error:
            raise StructureError(f"{which}: {error}") from error
    minimum.set_cell(start.cell, scale_atoms=True)
    positions, doubt = bring_near(minimum.positions, start.positions, start.cell.array, start.pbc)
    return (
        batches[0],
        replace(batches[0], positions=double(positions)),
        f"{trial.path.name}: {doubt}" if doubt else None,
    )


def _read_vasp(folder: Path, which: str) -> Atoms:
    path = next((p for p in (folder / which, folder / f"{which}.gz") if p.is_file()), None)
    if path is None:
        raise StructureError(f"no {which}: the relaxation was not run or not finished")
    if path.stat().st_size == 0:
        raise StructureError(f"{path.name} is empty: the relaxation was not run or not finished")
    try:
        text = text_of(path)
        _refuse_count(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the header; what matters is checked below
            frame: Atoms = read_vasp(io.StringIO(text))
    except Exception as error:  # ASE's parser fails in many ways on a broken file: each becomes one line
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise StructureError(f"{path.name} is not readable ({reason})") from error
    return frame


def _refuse_count(text: str) -> None:
    """Refuse a number of atoms that the lines cannot hold before anything of that size is made."""
    lines = text.splitlines()
    for line in lines[5:7]:
        words = line.split("!")[0].split()
        if words and all(word.isdigit() for word in words):
            announced = sum(int(word[:12]) for word in words)
            if announced > len(lines):
                raise StructureError(f"{announced} atoms announced but {len(lines)} lines in all: cut or damaged")
            return
