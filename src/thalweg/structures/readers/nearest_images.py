"""The end of a relaxation moved by lattice vectors next to its start: programs wrap atoms into the box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thalweg.structures.lattice import periodic_rows, shortest_images

CELL_TOLERANCE = 1e-3
"""Cells whose entries differ by no more (Å) are the same; files often have six decimals."""

_AMBIGUOUS = 0.45  # of the distance between lattice planes: beyond it another image is nearly as near


def bring_near(
    end: NDArray[np.float64], start: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], str | None]:
    """Move each atom of `end` by whole lattice vectors so that it lies nearest to where it started.

    Args:
        end: positions, Å, shape [atoms 3].
        start: positions, Å, shape [atoms 3].
        cell: lattice vectors as rows, Å, shape [3 3].
        pbc: which of them are periodic, shape [3].

    Returns:
        The positions moved, and one line where an atom is so far away that another image is nearly as near.
    """
    moved = end + shortest_images(end - start, cell, pbc) @ cell
    if not pbc.any():
        return moved, None
    distances = np.linalg.norm(moved - start, axis=1)
    _, inverse = periodic_rows(cell, pbc)
    least_height = 1.0 / np.linalg.norm(inverse[:, pbc], axis=0).max()
    atom = int(distances.argmax())
    if distances[atom] > _AMBIGUOUS * least_height:
        return moved, (
            f"atom {atom} moved {distances[atom]:.2f} Å, nearly half the cell: which periodic image "
            "it went to is uncertain, the nearest is kept"
        )
    return moved, None
