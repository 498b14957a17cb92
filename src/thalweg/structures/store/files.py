"""The files of a store: mapped or loaded as arrays, compared with their checksums. Called by `reading`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import StructureError
from thalweg.structures.store.schema import Stored


def array_file(folder: Path, name: str) -> Path:
    """Return the path of an array."""
    return folder / f"{name}.bin"


def mapped(folder: Path, name: str, stored: Stored) -> NDArray[Any]:
    """Return an array mapped into memory, read-only.

    Raises:
        StructureError: the file is missing, cannot be read or has another size than the index says.
    """
    file = array_file(folder, name)
    try:
        size = file.stat().st_size
        if size != stored.bytes or size != int(np.prod(stored.shape)) * np.dtype(stored.type).itemsize:
            raise StructureError(
                f"{file}: {size} bytes where the index says {stored.bytes}: truncated or changed; convert again"
            )
        if size == 0:  # nothing can be mapped
            return np.empty(stored.shape, dtype=stored.type)
        return np.asarray(np.memmap(file, dtype=stored.type, mode="r", shape=stored.shape))
    except FileNotFoundError:
        raise StructureError(f"{file}: the file is missing from the store: convert the source again") from None
    except OSError as error:
        raise StructureError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from error


def load(folder: Path, name: str, stored: Stored) -> NDArray[Any]:
    """Return an array read into memory, its checksum checked.

    Raises:
        StructureError: the file cannot be read or does not have its checksum.
    """
    file = array_file(folder, name)
    try:
        data = np.fromfile(file, dtype=stored.type)
    except OSError as error:
        raise StructureError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from error
    compare(folder, name, stored, hashlib.blake2b(data.data, digest_size=16).hexdigest())
    return data.reshape(stored.shape)


def compare(folder: Path, name: str, stored: Stored, found: str) -> None:
    """Compare the checksum that was found with that of the index.

    Raises:
        StructureError: they differ.
    """
    if found != stored.blake2b:
        raise StructureError(
            f"{array_file(folder, name)}: checksum {found[:12]}… where the index says {stored.blake2b[:12]}…: "
            "the file is damaged; copy or convert it again"
        )
