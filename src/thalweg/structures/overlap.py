"""Atoms on top of each other: refused wherever structures enter, periodic images included."""

from __future__ import annotations

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import find_edges

NEAREST = 0.3
"""Atoms closer than this overlap, Å."""

_SEARCH = 1.5  # Å; the search bins space by its cutoff, and 0.3 Å takes 30 times as long


def refuse_overlaps(structures: Structures, nearest: float = NEAREST) -> None:
    """Refuse structures in which two atoms, or an atom and its own image, are closer than `nearest` (Å).

    Raises:
        StructureError: naming the structure, the two atoms (counted from 0) and their distance.
    """
    edges = find_edges(structures.detach(), max(nearest, _SEARCH))
    distances = edges.vectors(structures.detach()).norm(dim=1)
    close = (distances < nearest).nonzero()
    if len(close):
        edge = int(close[0])
        first, second = int(edges.centre[edge]), int(edges.neighbour[edge])
        k = int(structures.owner[first])
        image = " (through the cell boundary)" if edges.shift[edge].any() else ""
        raise StructureError(
            f"structure {structures.ids[k]!r}: atoms {first - structures.offsets[k]} and "
            f"{second - structures.offsets[k]} are {float(distances[edge]):.3f} Å apart{image}; "
            f"allowed is {nearest} Å or more: mend the positions or the cell"
        )
