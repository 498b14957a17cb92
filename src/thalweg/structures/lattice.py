"""Shortest periodic images of vectors in any cell, in numpy: which whole numbers n make |v + n·cell| least.

Rounding fractional coordinates is wrong in skewed cells. Here it is only the first guess. It stands where it
is provably right: in a cell with orthogonal rows, and for any vector shorter than half the least distance
between lattice planes (another image would differ by at least that distance). Otherwise the vector walks: in
a Minkowski- reduced basis every Voronoi-relevant lattice vector has coefficients −1, 0, 1 (Tammela 1973;
Nguyen and Stehlé 2009), so a vector that none of these 27 translations shortens lies in the Voronoi cell, and
that is the answer.

Called by displacement and assignment; no graph.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

_Reals = NDArray[np.float64]
_Wholes = NDArray[np.int64]
_CHUNK = 16384  # vectors compared with 27 images at a time: 10 MB


def shortest_images(vectors: _Reals, cell: _Reals, pbc: NDArray[np.bool_]) -> _Wholes:
    """Return whole numbers n with |v + n·cell| least for every vector; zero along directions not periodic.

    Args:
        vectors: any vectors, Å, shape [..., 3].
        cell: lattice vectors as rows, Å, shape [3, 3]; rows that are not periodic are ignored.
        pbc: which rows are periodic, shape [3].

    Returns:
        Shape [..., 3]. Where two images are equally short (to 1 part in 10¹²) either may be returned.
    """
    if not pbc.any():
        return np.zeros(vectors.shape, dtype=np.int64)
    rows, inverse = periodic_rows(cell, pbc)
    flat = vectors.reshape(-1, 3)
    numbers = -np.rint(flat @ inverse)
    gram = rows @ rows.T
    lengths = np.sqrt(np.diag(gram))
    off_diagonal = np.abs(gram - np.diag(np.diag(gram)))
    if (off_diagonal > 1e-14 * np.outer(lengths, lengths)).any():
        rounded = flat + numbers @ rows
        least_height = 1.0 / np.linalg.norm(inverse[:, pbc], axis=0).max()
        far = np.flatnonzero(np.einsum("ij,ij->i", rounded, rounded) > (0.5 * (1 - 1e-9) * least_height) ** 2)
        if len(far):
            basis, combination = _reduced(rows.tobytes(), tuple(pbc.tolist()))
            for start in range(0, len(far), _CHUNK):
                part = far[start : start + _CHUNK]
                numbers[part] += _walk(rounded[part], basis) @ combination
    return numbers.astype(np.int64).reshape(vectors.shape)


def periodic_rows(cell: _Reals, pbc: NDArray[np.bool_]) -> tuple[_Reals, _Reals]:
    """Return the cell with zeros for rows that are not periodic, and its pseudo-inverse (to fractional)."""
    rows = np.where(pbc[:, None], cell, 0.0)
    return rows, np.linalg.pinv(rows)


def _walk(vectors: _Reals, basis: _Reals) -> _Reals:
    """Return the coefficients along a reduced basis [k 3] that make each vector shortest."""
    coefficients = -np.rint(vectors @ np.linalg.pinv(basis))
    steps = np.array(
        sorted(product((-1, 0, 1), repeat=len(basis)), key=lambda c: sum(map(abs, c))), dtype=float
    )
    active = np.arange(len(vectors))
    while len(active):
        present = vectors[active] + coefficients[active] @ basis
        squares = ((present[:, None] + steps @ basis) ** 2).sum(-1)  # active steps; step 0 stays
        best = squares.argmin(1)
        shorter = np.take_along_axis(squares, best[:, None], 1)[:, 0] < squares[:, 0] * (1 - 1e-12)
        active = active[shorter]
        coefficients[active] += steps[best[shorter]]
    return coefficients


@lru_cache(maxsize=256)
def _reduced(rows: bytes, pbc: tuple[bool, bool, bool]) -> tuple[_Reals, _Reals]:
    """Return a Minkowski-reduced basis of the periodic rows [k 3] and its coefficients along them [k 3]."""
    mask = np.array(pbc)
    cell = np.frombuffer(rows, dtype=np.float64).reshape(3, 3)
    _, combination = minkowski_reduce(_completed(cell, mask), pbc=mask)  # type: ignore[no-untyped-call]
    kept = combination[(combination[:, ~mask] == 0).all(axis=1)].astype(float)
    return kept @ cell, kept


def _completed(cell: _Reals, mask: NDArray[np.bool_]) -> _Reals:
    """Fill the rows that are not periodic with unit vectors orthogonal to the others."""
    full = cell.copy()
    _, _, axes = np.linalg.svd(cell)  # the last axes span what the rows leave out
    full[~mask] = axes[int(mask.sum()) :]
    return full
