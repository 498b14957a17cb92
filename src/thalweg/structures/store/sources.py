"""What a store is made from, part by part, with a mark after each part from which reading can go on.

Extended XYZ is read as a stream, so a file may be longer than memory. What other readers read comes as a whole and
is handed out in parts. A mark is a few whole numbers; a source given its own mark goes on behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from thalweg.errors import StructureError
from thalweg.structures.extended_xyz import frames_of
from thalweg.structures.pairs import Frames
from thalweg.structures.readers import import_frames
from thalweg.structures.readers.extxyz import ExtendedXyz
from thalweg.structures.xyz_blocks import Block, announced_atoms, cut_short, parse_block

PART = 1000
"""Frames in a part: what a kill costs at most, and how often the disk is waited for."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some frames of a source."""

    frames: Frames
    """The frames."""
    mark: Mapping[str, int]
    """Where the source stands after them."""
    share: float
    """Part of the source that was read by then, 0 to 1."""
    notes: tuple[str, ...] = ()
    """What the reader noted, one line each; with the first part."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(place, reason) of what the reader left out; with the first part."""


def read_parts(path: Path, mark: Mapping[str, int], size: int = PART, *, skip_broken: bool = False) -> Iterator[Part]:
    """Yield the frames of a source behind a mark, in double precision.

    Args:
        path: a file or folder.
        mark: where to go on; empty for the beginning.
        size: frames in a part, from 1.
        skip_broken: leave broken frames out and name them, where the reader can.

    Raises:
        StructureError: nothing is there, no reader knows it, or it holds something that is no labelled frame.
    """
    if path.is_file() and ExtendedXyz().recognises(path):
        yield from _streamed(path, mark, size)
    else:
        yield from _whole(path, mark, size, skip_broken)


def fingerprint(path: Path) -> str:
    """Return a digest of names, sizes and times of change of a file, or of all files of a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    seen: list[Any] = []
    for file in files:
        state = file.stat()
        seen.append([file.name if path.is_file() else str(file.relative_to(path)), state.st_size, state.st_mtime_ns])
    return hashlib.blake2b(json.dumps(seen).encode(), digest_size=8).hexdigest()


def _whole(path: Path, mark: Mapping[str, int], size: int, skip_broken: bool) -> Iterator[Part]:
    found = import_frames(path, skip_broken=skip_broken)
    begin, total = mark.get("frame", 0), len(found.frames)
    notes, skipped = found.notes, found.skipped
    for first in range(begin, total, size):
        last = min(first + size, total)
        yield Part(found.frames.select(range(first, last)), {"frame": last}, last / total, notes, skipped)
        notes, skipped = (), ()


def _streamed(path: Path, mark: Mapping[str, int], size: int) -> Iterator[Part]:
    at = {"byte": 0, "line": 1, "frame": 0, **mark}
    total = max(path.stat().st_size, 1)
    blocks: list[Block] = []
    try:
        with path.open("rb") as file:
            file.seek(at["byte"])
            line, frame = at["line"], at["frame"]
            while (found := _next_block(path, file, line, frame)) is not None:
                begin, lines = found
                blocks.append(parse_block(str(path), frame, begin, lines, torch.float64))
                line, frame = begin + len(lines), frame + 1
                if len(blocks) == size:
                    yield _part(path, blocks, {"byte": file.tell(), "line": line, "frame": frame}, total)
                    blocks = []
            if blocks:
                yield _part(path, blocks, {"byte": file.tell(), "line": line, "frame": frame}, total)
    except OSError as error:
        raise StructureError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from error


def _part(path: Path, blocks: list[Block], mark: dict[str, int], total: int) -> Part:
    return Part(frames_of(path, blocks, torch.float64), mark, min(mark["byte"] / total, 1.0))


def _next_block(path: Path, file: BinaryIO, line: int, frame: int) -> tuple[int, list[str]] | None:
    """Return the line at which the next block begins and its lines, None at the end of the file."""
    while True:
        raw = file.readline()
        if not raw:
            return None
        if raw.strip():
            break
        line += 1
    first = _text(path, raw, line)
    atoms = announced_atoms(str(path), frame, line, first)
    lines = [first]
    while len(lines) < atoms + 2:
        raw = file.readline()
        if not raw:
            raise cut_short(str(path), frame, line, atoms, len(lines) - 2)
        lines.append(_text(path, raw, line + len(lines)))
    return line, lines


def _text(path: Path, raw: bytes, line: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise StructureError(f"{path}, line {line}: this is not text: give an extended XYZ file")
    return text.rstrip("\r\n")
