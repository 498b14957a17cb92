"""One relaxation to look at: start, X_K, minimum and reference of a held-out pair, with the arm's forces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from thalweg.evaluation.arms import Contest
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.storage import atomic_write
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import read_pairs


def write_example(contest: Contest, arm: str, records: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the four frames for the first pair that the base gets wrong and the arm right, else the first pair.

    Args:
        contest: where the pairs and the arm's model are.
        arm: a tuned arm; the number of guided updates is its horizon.
        records: of all arms, with their evaluations.
        path: the file to write, extended XYZ.
    """
    pairs = read_pairs(contest.held_out)
    right = {name: [p["right"] for p in records[name]["evaluation"]["pairs"]] for name in ("base", arm)}
    gained = [k for k, (before, after) in enumerate(zip(right["base"], right[arm], strict=True)) if after > before]
    pair = pairs.select([gained[0] if gained else 0])
    potential = load_potential(contest.folder / "arms" / arm / "model.safetensors")
    record = records[arm]
    walk = contest.tune.relaxation.path(record["training"]["alpha"])
    horizon = record["route"]["horizon"]
    start = pair.starts.to(dtype=next(potential.parameters()).dtype)
    window = replace(walk, steps=horizon, max_steps=0).run(potential, start).structures
    frames = {
        "start": start,
        f"X_{horizon}": window,
        "minimum": walk.run(potential, window, skip=horizon).structures,
        "reference": pair.minima.to(dtype=start.dtype),
    }
    atoms = [_frame(potential, structures, label) for label, structures in frames.items()]
    atoms[0].info.update(arm=arm, id=pair.ids[0])
    atomic_write(path, _text(atoms), overwrite=True)


def _frame(potential: Potential, structures: Structures, label: str) -> Atoms:
    prediction = potential(structures)
    (atoms,) = structures.to_atoms()
    atoms.info = {"label": label}
    atoms.set_constraint()
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(prediction.energy), forces=prediction.forces.double().cpu().numpy()
    )
    return atoms


def _text(frames: list[Atoms]) -> str:
    from io import StringIO

    from ase.io import write

    stream = StringIO()
    write(stream, frames, format="extxyz")
    return stream.getvalue()
