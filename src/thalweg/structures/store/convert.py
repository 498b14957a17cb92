"""`convert`: labelled frames of any known source into a store, part by part; killed, it goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.store.schema import StoreIndex
from thalweg.structures.store.sources import PART, fingerprint, read_parts
from thalweg.structures.store.writing import Dtype, StoreWriter


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: Dtype = "float32",
    overwrite: bool = False,
    part: int = PART,
    progress: Callable[[float, int], None] | None = None,
) -> StoreIndex:
    """Convert labelled frames into a store; the same call again goes on with a conversion that was killed.

    Args:
        source: a file or folder that a reader knows.
        target: the folder to be; until it is whole, `TARGET.part` stands beside it.
        dtype: floating type of positions and forces. Cells, energies and stresses are kept in float64.
        overwrite: replace a store that is there, in the moment in which the new one is whole.
        part: frames between two entries of the journal.
        progress: called after each part with the share of the source that was read and the frames written so far.

    Returns:
        The index of the store.

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
        next(read_parts(place, {}))
    writer = StoreWriter(
        folder, dtype, {"source": place.name, "state of the source": fingerprint(place)}, overwrite=overwrite
    )
    try:
        for piece in read_parts(place, writer.state.mark, part):
            writer.append(piece.frames, piece.mark)
            if progress is not None:
                progress(piece.share, writer.state.frames)
        return writer.finish(place.name)
    except StructureError:  # the source has to be mended first, and is another one then
        writer.discard()
        raise
    finally:
        writer.close()
