"""Frames whose neighbour lists were found once: positions never change in force matching, so neither do edges.

A batch is put together from slices of flat arrays: indices of atoms are shifted, nothing is searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from thalweg.potentials.contract import Potential
from thalweg.structures.neighbours import Edges
from thalweg.structures.pairs import Frames


@runtime_checkable
class Labelled(Protocol):
    """Frames of which batches come with their edges."""

    def __len__(self) -> int: ...

    def atoms(self, chosen: list[int]) -> int:
        """Return the number of atoms of the chosen frames."""

    def expect(self, chosen: list[int]) -> None:
        """Be told which frames will be asked for next."""

    def select(self, chosen: list[int]) -> tuple[Frames, Edges]:
        """Return the chosen frames and their edges."""


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """Frames and the edges among their atoms."""

    frames: Frames
    """The frames."""
    edges: Edges
    """Edges of all frames, in the order of the frames."""
    bounds: Int[Tensor, " frames_and_one"]
    """Where the edges of each frame begin, and their number at the end."""

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def find(cls, frames: Frames, potential: Potential) -> Self:
        """Find the edges that a potential works on."""
        edges = potential.edges(frames.structures)
        owner = frames.structures.owner[edges.centre]
        counts = torch.bincount(owner, minlength=len(frames))
        return cls(frames, edges, torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]))

    def atoms(self, chosen: list[int]) -> int:
        """Return the number of atoms of the chosen frames."""
        return int(self.frames.structures.counts.cpu()[chosen].sum())

    def expect(self, chosen: list[int]) -> None:
        """Nothing to prepare: everything is in memory."""

    def select(self, chosen: list[int]) -> tuple[Frames, Edges]:
        """Return the chosen frames and their edges."""
        structures = self.frames.structures
        index = torch.tensor(chosen, dtype=torch.long, device=structures.device)
        first = torch.as_tensor(structures.offsets[:-1], device=structures.device)[index]
        counts = structures.counts[index]
        moved = torch.cumsum(counts, 0) - counts - first  # how far the atoms of each frame move
        begin, end = self.bounds[index], self.bounds[index + 1]
        size = end - begin
        jump = begin - (torch.cumsum(size, 0) - size)
        rows = torch.arange(int(size.sum()), device=structures.device) + torch.repeat_interleave(jump, size)
        shift = torch.repeat_interleave(moved, size)
        edges = Edges(
            centre=self.edges.centre[rows] + shift,
            neighbour=self.edges.neighbour[rows] + shift,
            shift=self.edges.shift[rows],
        )
        return self.frames.select(chosen), edges
