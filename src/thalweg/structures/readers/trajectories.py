"""Snapshots grouped into relaxations: pairs from their first and last, labelled frames from all.

A relaxation is what a reader gives one name; its snapshots are put in order. It is a pair if it has at least two,
in one cell, of the same atoms, and if the forces at its end (where known) are small. Everything else is skipped with
its reason. The end is moved by lattice vectors next to the start.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs, refuse_other_atoms
from thalweg.structures.readers.contract import Imported, ImportedFrames, ImportRules, Reader
from thalweg.structures.readers.nearest_images import CELL_TOLERANCE, bring_near
from thalweg.structures.readers.snapshots import Broken, Snapshot, Sound, double, sound


class TrajectoryReader(Reader):
    """A reader of files of structures, one file or a folder of them."""

    @abstractmethod
    def opens(self, file: Path) -> bool:
        """Whether the content of one file looks like this reader's; may raise OSError."""

    @abstractmethod
    def snapshots(self, file: Path) -> Iterator[Snapshot | Broken]:
        """Yield the structures of one file in its order.

        Raises:
            StructureError: the file as a whole cannot be understood.
        """

    def recognises(self, path: Path) -> bool:
        """Whether it is such a file, or a folder with at least one directly inside."""
        try:
            return next(self._files(path), None) is not None
        except OSError:
            return False

    def pairs(self, path: Path, rules: ImportRules) -> Imported:
        """Make a pair of every relaxation that has a start and an end; see the module."""
        skipped: list[tuple[str, str]] = []
        relaxations: dict[str, list[Sound]] = {}
        for _, snapshot in self._all(path, rules, skipped):
            relaxations.setdefault(snapshot.relaxation, []).append(snapshot)
        parts: list[Pairs] = []
        notes: list[str] = []
        for name, members in relaxations.items():
            try:
                pair, doubt = _pair(name, sorted(members, key=lambda m: m.order), rules.fmax)
            except StructureError as error:
                skipped.append((name, str(error)))
                continue
            parts.append(pair)
            if doubt:
                notes.append(f"{name}: {doubt}")
        if not parts:
            raise StructureError(f"{path}: {_none_of(len(relaxations), 'relaxations is a usable pair', skipped)}")
        return Imported(pairs=Pairs.concatenate(parts), notes=tuple(notes), skipped=tuple(skipped))

    def frames(self, path: Path, rules: ImportRules) -> ImportedFrames:
        """Take every structure that has an energy and forces."""
        skipped: list[tuple[str, str]] = []
        kept: list[Sound] = []
        count = 0
        for file, snapshot in self._all(path, rules, skipped):
            count += 1
            missing = [label for label in ("energy", "forces") if getattr(snapshot, label) is None]
            if missing:
                skipped.append((f"{file}, {snapshot.place}", f"no {' and no '.join(missing)}"))
            else:
                kept.append(snapshot)
        if not kept:
            raise StructureError(f"{path}: {_none_of(count, 'structures has energy and forces', skipped)}")
        return ImportedFrames(frames=frames_of(kept), skipped=tuple(skipped))

    def _files(self, path: Path) -> Iterator[Path]:
        if path.is_file():
            if self.opens(path):
                yield path
        elif path.is_dir():
            yield from (file for file in sorted(path.iterdir()) if file.is_file() and self.opens(file))

    def _all(self, path: Path, rules: ImportRules, skipped: list[tuple[str, str]]) -> Iterator[tuple[Path, Sound]]:
        try:
            files = list(self._files(path))
        except OSError as error:
            raise StructureError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from error
        for file in files:
            for found in _guarded(self.snapshots(file), file):
                try:
                    if isinstance(found, Broken):
                        raise StructureError(found.reason)
                    yield file, sound(found)
                except StructureError as error:
                    if not rules.skip_broken:
                        raise StructureError(f"{file}, {found.place}: {error}") from error
                    skipped.append((f"{file}, {found.place}", str(error)))


def frames_of(snapshots: Sequence[Sound]) -> Frames:
    """Return labelled frames named after relaxation and number; all must have energy and forces."""
    counts: dict[str, int] = {}
    names = []
    for snapshot in snapshots:
        number = counts.get(snapshot.relaxation, 0)
        counts[snapshot.relaxation] = number + 1
        names.append(f"{snapshot.relaxation}/{number}")
    stresses = [np.full((3, 3), math.nan) if s.stress is None else s.stress for s in snapshots]
    return Frames(
        structures=replace(Structures.concatenate([s.structure for s in snapshots]), ids=tuple(names)),
        energy=torch.tensor([s.energy for s in snapshots], dtype=torch.float64),
        forces=torch.cat([double(s.forces) for s in snapshots if s.forces is not None]),
        parents=tuple(s.relaxation for s in snapshots),
        stress=double(np.stack(stresses)) if any(s.stress is not None for s in snapshots) else None,
    )


def _guarded(found: Iterator[Snapshot | Broken], file: Path) -> Iterator[Snapshot | Broken]:
    """Name the file in what a reader raises; parsers fail in many ways on a broken file, and each becomes one line."""
    try:
        yield from found
    except StructureError as error:
        raise error if str(error).startswith(str(file)) else StructureError(f"{file}: {error}") from error
    except (Exception, RecursionError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise StructureError(f"{file}: cannot be read ({reason}): the file is damaged or not what it seems") from error


def _pair(name: str, members: Sequence[Sound], fmax: float) -> tuple[Pairs, str | None]:
    if len(members) < 2:
        raise StructureError("one structure only: a relaxation needs a start and an end")
    first, last = members[0], members[-1]
    start, end = first.structure, last.structure
    refuse_other_atoms(name, start.numbers, end.numbers)
    if not torch.equal(start.pbc, end.pbc):
        raise StructureError(
            f"periodic along {start.pbc[0].tolist()} at the start and {end.pbc[0].tolist()} at the end"
        )
    change = float((start.cell - end.cell).abs().max())
    if change > CELL_TOLERANCE:
        raise StructureError(f"the cell changed by {change:.4f} Å: only relaxations in a fixed cell are pairs here")
    refuse_unrelaxed(last, start, fmax)
    positions, doubt = bring_near(
        end.positions.numpy(), start.positions.numpy(), start.cell[0].numpy(), start.pbc[0].numpy()
    )
    minimum = replace(start, positions=double(positions))
    return (
        Pairs(
            start,
            minimum,
            (name,),
            energy_start=_one(first.energy),
            energy_minimum=_one(last.energy),
            forces_start=None if first.forces is None else double(first.forces),
        ),
        doubt,
    )


def refuse_unrelaxed(last: Sound, start: Structures, fmax: float) -> None:
    """Refuse an end on whose free coordinates a force (its norm per atom, eV/Å) above `fmax` is left.

    Raises:
        StructureError: naming that force; never where forces are unknown.
    """
    if last.forces is None:
        return
    left = float((double(last.forces) * start.free).norm(dim=1).max())  # fixed atoms keep their forces
    if left > fmax:
        raise StructureError(f"not relaxed: a force of {left:.3f} eV/Å is left at the end, allowed is {fmax}")


def _one(energy: float | None) -> torch.Tensor | None:
    return None if energy is None else torch.tensor([energy], dtype=torch.float64)


def _none_of(count: int, what: str, skipped: Sequence[tuple[str, str]]) -> str:
    first = f" (the first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
    return f"none of {count} {what}{first}" if count else f"no structure in it{first}"
