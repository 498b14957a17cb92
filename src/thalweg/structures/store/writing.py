"""`StoreWriter`: frames are appended to a staging folder, which takes the store's name once it is whole.

    NAME.part/            beside the store to be
      positions.bin …     grown part by part
      journal.jsonl       first line: what is converted; then a line per part: sizes, checksums so far, where it stood
      index.json          written last; then the folder takes its name in one step

A part counts from the moment its journal line is on the disk. After a kill, files are cut back to the newest whole
line, so whatever was half written is written again. The store's own name never stands for anything half.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import OutputError, StructureError
from thalweg.storage import append_line, atomic_write
from thalweg.structures.pairs import Frames
from thalweg.structures.store.schema import COLUMNS, INDEX, JOURNAL, Stored, StoreIndex, index_text, real_type

Dtype = Literal["float32", "float64"]


@dataclass(frozen=True)
class _State:
    """What a journal line says."""

    frames: int = 0
    atoms: int = 0
    parents: int = 0
    id_bytes: int = 0
    parent_bytes: int = 0
    largest: int = 0
    species: tuple[int, ...] = ()
    fixed: bool = False
    """Whether any component is fixed."""
    stressed: bool = False
    """Whether any frame has a stress."""
    mark: Mapping[str, int] = field(default_factory=dict)
    """Where the source stood."""
    crc: Mapping[str, int] = field(default_factory=dict)
    """Checksum (CRC-32) of each file so far."""

    def length(self, along: str) -> int:
        """Return the length of an axis."""
        counts = {"frames": self.frames, "atoms": self.atoms, "frames+1": self.frames + 1}
        names = {"parents+1": self.parents + 1, "id bytes": self.id_bytes, "parent bytes": self.parent_bytes}
        return {**counts, **names}[along]


class StoreWriter:
    """A store in the making."""

    def __init__(self, target: Path, dtype: Dtype, origin: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Begin a staging folder, or take up the one that a killed conversion left.

        Args:
            target: the folder to be.
            dtype: floating type of positions and forces.
            origin: what is converted and how (JSON values); a staging folder of another origin is refused.
            overwrite: the target may exist; it is replaced at the end.

        Raises:
            OutputError: the target exists, cannot be written, or is being converted from something else.
            StructureError: the staging folder is damaged.
        """
        self.target, self.dtype, self.overwrite = target, dtype, overwrite
        self.folder = target.with_name(f"{target.name}.part")
        self._origin = {**origin, "dtype": dtype}
        self._types = {c.name: np.dtype(real_type(dtype) if c.kind == "real" else c.kind) for c in COLUMNS}
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists: choose another name or give --overwrite")
        self._lock: int | None = None
        try:
            begun = (self.folder / JOURNAL).exists()
            fresh = None if begun else self._begin()
            self._lock = _locked(self.folder / JOURNAL)
            self.state = fresh or self._resume()
            names = self._stored_names("ids", "id_offsets"), self._stored_names("parent_names", "parent_offsets")
        except OSError as error:
            self.close()
            raise _refused(self.folder, error) from error
        except BaseException:
            self.close()
            raise
        self._ids: set[bytes] = {_key(name) for name in names[0]}
        self._parents = {name: k for k, name in enumerate(names[1])}

    def append(self, frames: Frames, mark: Mapping[str, int]) -> None:
        """Append frames and note where the source stands after them.

        Raises:
            StructureError: an id that is there already, or a label that is not finite.
            OutputError: the folder cannot be written.
        """
        _check_labels(frames)
        parts = self._parts(frames)
        try:
            crc = dict(self.state.crc)
            for name, values in parts.items():
                data = np.ascontiguousarray(values, dtype=self._types[name]).tobytes()
                crc[name] = zlib.crc32(data, crc.get(name, 0))
                with self._file(name).open("ab") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise _refused(self.folder, error) from error
        s, numbers = self.state, frames.structures.numbers
        self.state = replace(
            s,
            frames=s.frames + len(frames),
            atoms=s.atoms + len(numbers),
            parents=len(self._parents),
            id_bytes=s.id_bytes + len(parts["ids"]),
            parent_bytes=s.parent_bytes + len(parts["parent_names"]),
            largest=max(s.largest, int(frames.structures.counts.max())),
            species=tuple(sorted({*s.species, *numbers.unique().tolist()})),
            fixed=s.fixed or not bool(frames.structures.free.all()),
            stressed=s.stressed or (frames.stress is not None and not bool(frames.stress.isnan().all())),
            mark=dict(mark),
            crc=crc,
        )
        append_line(self.folder / JOURNAL, json.dumps(vars(self.state)))

    def finish(self, source: str) -> StoreIndex:
        """Write the index and give the folder its name.

        Args:
            source: name of what was converted.

        Raises:
            StructureError: no frame was appended, or a file does not hold what was written.
            OutputError: the operating system refused.
        """
        s = self.state
        if s.frames == 0:
            raise StructureError(f"{source}: no frames in it: a store needs at least one")
        dropped = {"free": not s.fixed, "stress": not s.stressed}
        arrays = {c.name: self._stored(c.name, c.along, c.rest) for c in COLUMNS if not dropped.get(c.name)}
        index = StoreIndex(s.frames, s.atoms, s.parents, s.largest, s.species, self.dtype, source, arrays)
        try:
            atomic_write(self.folder / INDEX, index_text(index), overwrite=True)
            for name in (name for name, gone in dropped.items() if gone):
                self._file(name).unlink(missing_ok=True)
            self._take_name()
        except OSError as error:
            raise _refused(self.target, error) from error
        return index

    def discard(self) -> None:
        """Remove the staging folder: what failed cannot be taken up."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin(self) -> _State:
        if self.folder.exists():
            raise OutputError(
                f"{self.folder} is in the way: it is no unfinished conversion (no {JOURNAL}): move it elsewhere"
            )
        if not self.target.parent.is_dir():
            raise OutputError(f"cannot write {self.target}: there is no folder {self.target.parent}: create it first")
        fresh = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
        fresh.mkdir()
        for name in ("offsets", "id_offsets", "parent_offsets"):
            (fresh / f"{name}.bin").write_bytes(np.zeros(1, dtype="<i8").tobytes())
        for column in COLUMNS:
            (fresh / f"{column.name}.bin").touch()
        zero = zlib.crc32(np.zeros(1, dtype="<i8").tobytes())
        state = _State(crc={name: zero for name in ("offsets", "id_offsets", "parent_offsets")})
        append_line(fresh / JOURNAL, json.dumps(self._origin, sort_keys=True))
        append_line(fresh / JOURNAL, json.dumps(vars(state)))
        os.rename(fresh, self.folder)  # so that a staging folder is never met without its first lines
        return state

    def _resume(self) -> _State:
        journal = self.folder / JOURNAL
        lines = [_parsed(line) for line in journal.read_bytes().split(b"\n")]
        origin, states = lines[0], [line for line in lines[1:] if line is not None and "crc" in line]
        if origin is None or not states:
            raise StructureError(f"{journal}: damaged: remove the folder {self.folder} to begin anew")
        if origin != json.loads(json.dumps(self._origin)):
            other = next(key for key in {**origin, **self._origin} if origin.get(key) != self._origin.get(key))
            raise OutputError(
                f"{self.folder} holds an unfinished conversion whose {other} was {origin.get(other)!r} and is now "
                f"{self._origin.get(other)!r}: remove that folder to begin anew"
            )
        newest = states[-1]
        state = _State(**{**newest, "species": tuple(newest["species"])})
        for column in COLUMNS:
            file = self._file(column.name)
            size = state.length(column.along) * int(np.prod(column.rest)) * self._types[column.name].itemsize
            there = file.stat().st_size if file.exists() else 0
            optional_gone = column.optional and (self.folder / INDEX).exists()  # killed while the store was finished
            if there < size and not optional_gone:
                raise StructureError(
                    f"{file}: {there} bytes where the journal says {size}: remove {self.folder} to begin anew"
                )
            if there > size:
                os.truncate(file, size)
        return state

    def _take_name(self) -> None:
        """Let the staging folder become the store; an older store is moved aside first and removed last."""
        aside = self.target.with_name(f".{self.target.name}.old.{os.getpid()}")
        replaced = self.target.exists()
        if replaced and not self.overwrite:
            raise OutputError(f"{self.target} exists by now: choose another name or give --overwrite")
        if replaced:
            os.rename(self.target, aside)
        os.rename(self.folder, self.target)
        (self.target / JOURNAL).unlink()
        if replaced:
            shutil.rmtree(aside, ignore_errors=True)

    def _parts(self, frames: Frames) -> dict[str, NDArray[Any]]:
        """Return what the frames add to each array."""
        structures, s = frames.structures, self.state
        ids = [name.encode("utf-8") for name in structures.ids]
        for name in structures.ids:
            if _key(name) in self._ids:
                raise StructureError(f"frame id {name!r} occurs twice: give each frame its own id")
            self._ids.add(_key(name))
        known = len(self._parents)
        codes = [self._parents.setdefault(name, len(self._parents)) for name in frames.parents]
        fresh = [name.encode("utf-8") for name in list(self._parents)[known:]]
        bits = np.array([1, 2, 4], dtype=np.uint8)
        stress = np.full((len(frames), 3, 3), np.nan) if frames.stress is None else frames.stress.numpy()
        return {
            "offsets": s.atoms + np.cumsum(structures.counts.numpy()),
            "numbers": structures.numbers.numpy(),
            "positions": structures.positions.numpy(),
            "forces": frames.forces.numpy(),
            "free": structures.free.numpy() @ bits,
            "cell": structures.cell.numpy(),
            "pbc": structures.pbc.numpy() @ bits,
            "energy": frames.energy.numpy(),
            "stress": stress,
            "ids": np.frombuffer(b"".join(ids), dtype=np.uint8),
            "id_offsets": s.id_bytes + np.cumsum([len(name) for name in ids]),
            "parents": np.array(codes),
            "parent_names": np.frombuffer(b"".join(fresh), dtype=np.uint8),
            "parent_offsets": s.parent_bytes + np.cumsum([len(name) for name in fresh], dtype=np.int64),
        }

    def _stored(self, name: str, along: str, rest: tuple[int, ...]) -> Stored:
        """Read a file back; what is on the disk must be what was written."""
        crc, digest, size = 0, hashlib.blake2b(digest_size=16), 0
        with self._file(name).open("rb") as file:
            while piece := file.read(1 << 22):
                crc, size = zlib.crc32(piece, crc), size + len(piece)
                digest.update(piece)
        shape = (self.state.length(along), *rest)
        if crc != self.state.crc.get(name, 0) or size != int(np.prod(shape)) * self._types[name].itemsize:
            raise StructureError(
                f"{self._file(name)}: does not hold what was written: check the disk and convert again"
            )
        return Stored(self._types[name].str, shape, size, digest.hexdigest())

    def _stored_names(self, name: str, offsets: str) -> list[str]:
        text = self._file(name).read_bytes()
        ends = np.fromfile(self._file(offsets), dtype="<i8")
        return [text[a:b].decode("utf-8") for a, b in pairwise(ends.tolist())]

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.bin"


def _check_labels(frames: Frames) -> None:
    structures = frames.structures
    per_atom = (("position", structures.positions), ("force", frames.forces))
    for what, values in per_atom:
        bad = ~values.isfinite().all(dim=1)
        if bool(bad.any()):
            atom = int(bad.nonzero()[0])
            k = int(structures.owner[atom])
            raise StructureError(
                f"frame {structures.ids[k]!r}: the {what} of atom {atom - structures.offsets[k]} is "
                f"{values[atom].tolist()}, not finite: mend it or leave the frame out"
            )
    bad = ~frames.energy.isfinite()
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise StructureError(
            f"frame {structures.ids[k]!r}: its energy is {float(frames.energy[k])}: mend it or leave the frame out"
        )


def _locked(journal: Path) -> int:
    """Keep others from writing to the folder for as long as this process lives."""
    handle = os.open(journal, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OutputError(f"{journal.parent}: another conversion is writing here: wait for it or end it") from None
    return handle


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8"), digest_size=12).digest()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None  # torn by a kill
    return found if isinstance(found, dict) else None


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or type(error).__name__}: mend that and run again")
