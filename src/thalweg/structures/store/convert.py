"""`convert`: labelled frames of any known source into a store, part by part; killed, it goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.store.schema import StoreIndex
from thalweg.structures.store.sources import PART, fingerprint, read_parts
from thalweg.structures.store.writing import Dtype, StoreWriter


@dataclass(frozen=True)
class Conversion:
    """What a conversion came to."""

    index: StoreIndex
    """The index of the store."""
    notes: tuple[str, ...]
    """What the reader noted, one line each."""
    skipped: tuple[tuple[str, str], ...]
    """(place, reason) of every structure of the source that is not in the store."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: Dtype = "float32",
    overwrite: bool = False,
    skip_broken: bool = False,
    part: int = PART,
    progress: Callable[[float, int], None] | None = None,
) -> Conversion:
    """Convert labelled frames into a store; the same call again goes on with a conversion that was killed.

    Args:
        source: a file or folder that a reader knows.
        target: the folder to be; until it is whole, `TARGET.part` stands beside it.
        dtype: floating type of positions and forces. Cells, energies and stresses are kept in float64.
        overwrite: replace a store that is there, in the moment in which the new one is whole.
        skip_broken: leave broken frames out and name them, where the reader can.
        part: frames between two entries of the journal.
        progress: called after each part with the share of the source that was read and the frames written so far.

    Returns:
        The index of the store and what was left out.

    Raises:
        StructureError: the source cannot be read, or holds what is no labelled frame.
        SettingsError: `dtype` or `part` is not allowed.
        OutputError: the target exists or cannot be written, or is being converted from another source.
    """
    if dtype not in ("float32", "float64"):
        raise SettingsError(f"dtype is {dtype!r}: allowed are float32 and float64")
    if part < 1:
        raise SettingsError(f"part is {part}: allowed is 1 or more")
    place = Path(source)
    folder = Path(os.path.abspath(target))
    if not place.exists():
        raise StructureError(f"{place}: there is no such file or folder: check the path")
    origin = {"source": place.name, "state of the source": fingerprint(place), "skip_broken": skip_broken}
    writer = StoreWriter(folder, dtype, origin, overwrite=overwrite)
    notes: list[str] = []
    skipped: list[tuple[str, str]] = []
    try:
        for piece in read_parts(place, writer.state.mark, part, skip_broken=skip_broken):
            writer.append(piece.frames, piece.mark)
            notes += piece.notes
            skipped += piece.skipped
            if progress is not None:
                progress(piece.share, writer.state.frames)
        return Conversion(writer.finish(place.name), tuple(notes), tuple(skipped))
    except StructureError:  # the source has to be mended first, and is another one then
        writer.discard()
        raise
    finally:
        writer.close()
