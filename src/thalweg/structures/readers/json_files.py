"""Looking into JSON files: by the first bytes what kind it is, then as a whole up to a bound."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

from thalweg.errors import StructureError
from thalweg.structures.readers.ase_rows import parse_json

LARGEST_TEXT = 1 << 31
"""A text file that is larger (bytes, 2 GiB; unpacked, where it is compressed) is refused."""

_LOOK = 1 << 16


def head_of(file: Path) -> bytes:
    """Return the first 64 KiB, unpacked if it is gzip; empty where that fails; may raise OSError."""
    with file.open("rb") as opened:
        head = opened.read(_LOOK)
    if head[:2] != b"\x1f\x8b":
        return head
    stream = zlib.decompressobj(wbits=31)
    try:
        return stream.decompress(head, _LOOK)
    except zlib.error:
        return b""


def text_of(file: Path) -> str:
    """Return a text file whole, unpacked if it is gzip.

    Raises:
        StructureError: too large, not text, or a damaged compression.
    """
    with file.open("rb") as opened:
        packed = opened.read(2) == b"\x1f\x8b"
    try:
        if packed:
            with gzip.open(file, "rb") as unpacked:
                data = unpacked.read(LARGEST_TEXT // 8)
                if unpacked.read(1):
                    raise StructureError(
                        f"unpacks to more than {LARGEST_TEXT >> 23} MiB: refused; unpack it yourself if that is right"
                    )
        else:
            size = file.stat().st_size
            if size > LARGEST_TEXT:
                raise StructureError(f"{size} bytes: allowed are {LARGEST_TEXT}: split it")
            data = file.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StructureError(f"damaged compression ({error}): the file is truncated or damaged") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise StructureError("this is not a text file") from None


def document_of(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        StructureError: see `text_of` and `ase_rows.parse_json`.
    """
    return parse_json(text_of(file))
