"""Rattled silicon vacancies to label: `python tests/data/silicon_vacancy_xtb/make.py rattled.extxyz`."""

from __future__ import annotations

import sys

from ase.build import bulk
from ase.io import write

FRAMES = 6


def main(out: str) -> None:
    """Write 15-atom cells with another vacancy each, rattled by 0.02 to 0.17 Å."""
    frames = []
    for k in range(FRAMES):
        atoms = bulk("Si", cubic=True) * (2, 1, 1)
        del atoms[k % 16]
        atoms.rattle(0.02 + 0.03 * k, seed=k)
        atoms.info["id"] = f"vacancy-{k}"
        frames.append(atoms)
    write(out, frames)


if __name__ == "__main__":
    main(sys.argv[1])
