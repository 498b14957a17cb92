"""The contract of a reader: it recognises a kind of file or folder by content and makes pairs or frames of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thalweg.structures.pairs import Frames, Pairs

FMAX = 0.1
"""Largest force (eV/Å) on a free coordinate at which the end of a relaxation counts as its minimum."""


@dataclass(frozen=True)
class ImportRules:
    """What to take and what to leave."""

    fmax: float = FMAX
    """A relaxation whose last forces are larger (eV/Å) is no pair; where forces are unknown nothing is asked."""
    skip_broken: bool = False
    """Leave broken frames (not finite, overlapping, undecodable) out and count them, instead of refusing the file."""


@dataclass(frozen=True, eq=False)
class Imported:
    """What a reader made of a path."""

    pairs: Pairs
    """The pairs found; at least one."""
    notes: tuple[str, ...] = ()
    """What the user should know, one line each (a missing energy, an atom whose image is ambiguous)."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of everything that looked like a pair and is not among them."""


@dataclass(frozen=True, eq=False)
class ImportedFrames:
    """What a reader made of a path, as labelled frames."""

    frames: Frames
    """The frames found; at least one."""
    notes: tuple[str, ...] = ()
    """What the user should know, one line each."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(place, reason) of every structure that is not among the frames."""


class Reader(ABC):
    """One source of pairs and frames: a new one is one file here and one line in `READERS`."""

    name: ClassVar[str]
    """Its name in messages."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the content at `path` looks like this reader's; never raises for what it cannot read."""

    @abstractmethod
    def pairs(self, path: Path, rules: ImportRules) -> Imported:
        """Read all pairs at `path`.

        Raises:
            StructureError: nothing usable is there, or the whole cannot be understood. What concerns a single
                pair of a folder goes to `skipped` instead.
        """

    @abstractmethod
    def frames(self, path: Path, rules: ImportRules) -> ImportedFrames:
        """Read all frames with energy and forces at `path`.

        Raises:
            StructureError: as `pairs`.
        """
