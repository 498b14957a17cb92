"""Pairs and frames from one extended XYZ file; the schema is in docs/data-format.md."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from thalweg.structures.extended_xyz import read_frames, read_pairs
from thalweg.structures.readers.contract import Imported, ImportedFrames, ImportRules, Reader
from thalweg.structures.xyz_blocks import comment_words


class ExtendedXyz(Reader):
    """A text file whose first line is a number of atoms and whose second has key=value entries."""

    name: ClassVar[str] = "extended XYZ file"

    def recognises(self, path: Path) -> bool:
        """Whether the first two lines are those of extended XYZ."""
        if not path.is_file():
            return False
        try:
            with path.open(encoding="utf-8") as file:
                count, comment = file.readline(100).strip(), file.readline(10000)
        except (OSError, UnicodeDecodeError):
            return False
        return count.isdigit() and not comment_words(comment).keys().isdisjoint({"Properties", "Lattice", "role"})

    def pairs(self, path: Path, rules: ImportRules) -> Imported:
        """Read all pairs of the file; one fault refuses the file, since it is written as a whole."""
        return Imported(pairs=read_pairs(path))

    def frames(self, path: Path, rules: ImportRules) -> ImportedFrames:
        """Read all frames of the file; one fault refuses the file."""
        return ImportedFrames(frames=read_frames(path))
