"""Makes tests/data/same_crystal/matcher.json: what pymatgen's StructureMatcher says of many pairs of crystals.

    python -m tests.structures.matcher_table crystals     draws the crystals and writes them without answers
    python -m tests.structures.matcher_table answers      adds the answers; needs pymatgen, nothing of this package
    (run at the root of the repository, in this order)

The crystals are relaxed minima of the testbed `crystals` and a disguised copy of each: another basis, origin, order and
orientation, and noise of 0.005 Å. Compared are each with its copy, and all of one composition whose energies differ by
less than 0.05 eV an atom with each other.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

TABLE = Path(__file__).parent.parent / "data" / "same_crystal" / "matcher.json"
MATCHER = {"ltol": 0.1, "stol": 0.1, "angle_tol": 5.0, "scale": False, "primitive_cell": True}
"""stol 0.1 is a root mean square of 0.27 Å at silicon's density and 0.32 Å at that of cadmium telluride."""


def disguised(cell: np.ndarray, positions: np.ndarray, rng: np.random.Generator, noise: float = 0.0, turn: int = 1):
    """Return cell, positions and order of a crystal in another basis, origin, order and orientation.

    `turn` −1 makes the mirror image.
    """
    while True:
        change = rng.integers(-2, 3, (3, 3))
        if abs(round(np.linalg.det(change))) == 1:
            break
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= turn * np.sign(np.linalg.det(rotation))
    order = rng.permutation(len(positions))
    moved = positions + rng.normal(0.0, 1.0, positions.shape) * noise + rng.uniform(-3, 3, 3)
    moved = moved + rng.integers(-2, 3, moved.shape) @ cell
    return change @ cell @ rotation, (moved @ rotation)[order], order


def write_crystals() -> None:
    """Draw the crystals and choose the pairs."""
    from thalweg.testbeds.crystals import Crystals

    rng = np.random.default_rng(5)
    crystals: list[dict[str, Any]] = []
    energies: list[float] = []
    for elements, count in ((("Si",), 50), (("Cd", "Te"), 25)):
        pairs = Crystals(elements=elements).make(count, seed=7)
        for k, atoms in enumerate(pairs.minima.to_atoms()):
            energies += [float(pairs.energy_minimum[k]) / len(atoms)] * 2
            cell, positions, order = disguised(atoms.cell.array, atoms.positions, rng, 0.005)
            for box, places, numbers in (
                (atoms.cell.array, atoms.positions, atoms.numbers),
                (cell, positions, atoms.numbers[order]),
            ):
                fractions = (places @ np.linalg.inv(box)) % 1.0
                crystals.append(
                    {
                        "cell": box.round(6).tolist(),
                        "fractions": fractions.round(6).tolist(),
                        "numbers": numbers.tolist(),
                    }
                )
    chosen = [
        [i, j]
        for i, j in combinations(range(len(crystals)), 2)
        if (j == i + 1 and i % 2 == 0)
        or (
            i % 2 == 0  # the first as it is, the second disguised
            and j % 2 == 1
            and sorted(crystals[i]["numbers"]) == sorted(crystals[j]["numbers"])
            and abs(energies[i] - energies[j]) < 0.05
        )
    ]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps({"crystals": crystals, "pairs": chosen}) + "\n")


def matched(crystals: list[dict[str, Any]], pairs: list[list[int]]) -> list[bool]:
    """Return what StructureMatcher says of pairs of crystals."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    matcher = StructureMatcher(**MATCHER)
    read = [Structure(c["cell"], c["numbers"], c["fractions"]) for c in crystals]
    return [bool(matcher.fit(read[i], read[j])) for i, j in pairs]


def write_answers() -> None:
    """Add the answers and by which version."""
    import pymatgen.core

    table = json.loads(TABLE.read_text())
    answers = matched(table["crystals"], table["pairs"])
    record = {"pymatgen": pymatgen.core.__version__, "matcher": MATCHER, "answers": answers}
    TABLE.write_text(json.dumps({**table, **record}) + "\n")


if __name__ == "__main__":
    {"crystals": write_crystals, "answers": write_answers}[sys.argv[1]]()
