"""The contract of a reader: it recognises a kind of file or folder by content and makes pairs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thalweg.structures.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Imported:
    """What a reader made of a path."""

    pairs: Pairs
    """The pairs found; at least one."""
    notes: tuple[str, ...] = ()
    """What the user should know, one line each (a missing energy, an atom whose image is ambiguous)."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of everything that looked like a pair and is not among them."""


class Reader(ABC):
    """One source of pairs: a new one is one file here and one line in `READERS`."""

    name: ClassVar[str]
    """Its name in messages."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the content at `path` looks like this reader's; never raises for what it cannot read."""

    @abstractmethod
    def read(self, path: Path) -> Imported:
        """Read all pairs at `path`.

        Raises:
            StructureError: nothing usable is there, or the whole cannot be understood. What concerns a single
                pair of a folder goes to `skipped` instead.
        """
