"""Atoms on top of each other: refused wherever structures enter, periodic images included."""

from __future__ import annotations

import torch

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import find_edges

NEAREST = 0.3
"""Atoms closer than this overlap, Å."""

FARTHEST = 1e6
"""Coordinates and lattice vectors beyond this (Å, a tenth of a millimetre) are a fault of the file."""

_SEARCH = 1.5  # Å; the search bins space by its cutoff, and 0.3 Å takes 30 times as long


def refuse_overlaps(structures: Structures, nearest: float = NEAREST) -> None:
    """Refuse structures in which two atoms, or an atom and its own image, are closer than `nearest` (Å).

    Raises:
        StructureError: naming the structure, the two atoms (counted from 0) and their distance; or coordinates beyond
            `FARTHEST`, or lattice planes closer than `nearest`, either of which the search could not take.
    """
    _refuse_absurd(structures, nearest)
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


def _refuse_absurd(structures: Structures, nearest: float) -> None:
    """Refuse what makes a search for neighbours endless: coordinates without bound, cells without thickness."""
    for k, name in enumerate(structures.ids):
        positions = structures.positions[structures.offsets[k] : structures.offsets[k + 1]].detach()
        cell, periodic = structures.cell[k].detach().double(), structures.pbc[k]
        for what, values in (("a coordinate", positions), ("a lattice vector", cell)):
            largest = float(values.abs().max()) if values.numel() else 0.0
            if largest > FARTHEST:
                raise StructureError(
                    f"structure {name!r}: {what} of {largest:.3g} Å: allowed is up to {FARTHEST:.0e}: check the units"
                )
        if bool(periodic.any()):
            heights = 1.0 / torch.linalg.pinv(cell[periodic]).norm(dim=0)
            if float(heights.min()) < nearest:
                raise StructureError(
                    f"structure {name!r}: lattice planes {float(heights.min()):.3g} Å apart; "
                    f"allowed is {nearest} Å or more: mend the cell or check the units"
                )
