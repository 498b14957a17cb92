"""One block of an extended XYZ file: reading with every fault named, writing without loss.

ASE parses the columns; the words that name things (`pair`, `role`, `parent`, `id`) are taken from the comment
line as written, since ASE turns an id such as 007 or 1e5 into a number.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import read_xyz
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from thalweg.errors import OutputError, StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.overlap import refuse_overlaps

_WORDS = ("pair", "role", "parent", "id")
_ENTRY = re.compile(r'(?P<key>[^\s="]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"]+))')
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.:%/+\-]*")


@dataclass(frozen=True, eq=False)
class Block:
    """What one block says."""

    path: str
    index: int
    """Its place in the file, from 0."""
    line: int
    """The line at which it begins, from 1."""
    words: Mapping[str, str]
    """Those of pair, role, parent and id that it has."""
    structure: Structures
    """A batch of one."""
    energy: float | None
    """eV."""
    forces: Tensor | None
    """[atoms 3], eV/Å."""
    stress: Tensor | None
    """[3 3], eV/Å³."""

    def error(self, reason: str) -> StructureError:
        """Return an error that says where."""
        return _error(self.path, self.index, self.line, reason)

    def word(self, key: str) -> str:
        """Return a word that must be there.

        Raises:
            StructureError: it is not.
        """
        if key not in self.words:
            raise self.error(f"no {key}= on the comment line: pairs need pair=<id> and role=start or role=minimum")
        return self.words[key]


def read_blocks(path: str | os.PathLike[str], dtype: torch.dtype) -> Iterator[Block]:
    """Read a file block by block, checking each.

    Raises:
        StructureError: the file is missing, a folder, empty or not text, or a block is broken.
    """
    lines = _lines(path)
    name, at, index = os.fspath(path), 0, 0
    while True:
        while at < len(lines) and not lines[at].strip():
            at += 1
        if at == len(lines):
            break
        count = _atom_count(name, index, at, lines)
        yield parse_block(name, index, at + 1, lines[at : at + 2 + count], dtype)
        at, index = at + 2 + count, index + 1
    if index == 0:
        raise StructureError(f"{name}: the file is empty: give at least one structure")


def announced_atoms(path: str, index: int, line: int, text: str) -> int:
    """Return the number that the first line of a block announces.

    Raises:
        StructureError: it is none, or 0.
    """
    text = text.strip()
    if not (text.isascii() and text.isdigit()):
        raise _error(path, index, line, f"expected the number of atoms, found {text[:40]!r}")
    if int(text) == 0:
        raise _error(path, index, line, "a structure without atoms: remove it")
    return int(text)


def cut_short(path: str, index: int, line: int, atoms: int, left: int) -> StructureError:
    """Return the error of a block with fewer lines than atoms."""
    return _error(path, index, line, f"{atoms} atoms announced but {max(left, 0)} lines follow: the file is cut short")


def parse_block(path: str, index: int, line: int, lines: Sequence[str], dtype: torch.dtype) -> Block:
    """Parse and check one block.

    Args:
        path: name of the file, for messages.
        index: place of the block in the file, from 0.
        line: line at which it begins, from 1.
        lines: its lines: number of atoms, comment, one line per atom.
        dtype: floating type of positions, cell and labels.

    Raises:
        StructureError: the block is broken.
    """
    comment = comment_words(lines[1])
    words = {key: comment[key] for key in _WORDS if key in comment}
    name = words.get("pair", words.get("id", f"frame {index}"))
    frame = _parse(path, index, line, lines)
    try:
        structure = Structures.from_atoms(frame, ids=[name], dtype=dtype)
        refuse_overlaps(structure)
    except StructureError as error:
        raise _error(path, index, line, str(error)) from error
    results = dict(frame.calc.results) if frame.calc is not None else {}
    energy, forces, stress = results.get("energy"), results.get("forces"), results.get("stress")
    shapes = {"energy": (), "forces": (len(frame), 3), "stress": (6,)}  # ASE turns 3×3 into Voigt order
    for label, value in (("energy", energy), ("forces", forces), ("stress", stress)):
        if value is not None and not _finite(value, shapes[label]):
            raise _error(path, index, line, f"{label} is not finite numbers: mend it or leave {label} out")
    if stress is not None:
        stress = torch.tensor(voigt_6_to_full_3x3_stress(stress), dtype=dtype)
    return Block(
        path=path,
        index=index,
        line=line,
        words=words,
        structure=structure,
        energy=None if energy is None else float(energy),
        forces=None if forces is None else torch.tensor(np.asarray(forces), dtype=dtype).reshape(-1, 3),
        stress=stress,
    )


def block_text(
    structures: Structures,
    k: int,
    *,
    words: Mapping[str, str],
    energy: Tensor | None = None,
    forces: Tensor | None = None,
    stress: Tensor | None = None,
) -> str:
    """Return structure k of a batch as a block; labels that are None or NaN are left out.

    Raises:
        OutputError: a word holds a line break.
    """
    atoms = slice(structures.offsets[k], structures.offsets[k + 1])
    symbols = [chemical_symbols[z] for z in structures.numbers[atoms].tolist()]
    columns = ["species:S:1", "pos:R:3"]
    values = [[_number(x) for x in row] for row in structures.positions[atoms].tolist()]
    if forces is not None and not bool(forces.isnan().any()):
        columns.append("forces:R:3")
        values = [row + [_number(x) for x in f] for row, f in zip(values, forces.tolist(), strict=True)]
    free = structures.free[atoms]
    if not bool(free.all()):
        columns.append("move_mask:L:3")
        values = [row + ["T" if x else "F" for x in f] for row, f in zip(values, free.tolist(), strict=True)]
    entries = []
    if bool(structures.cell[k].any()):
        entries.append(f'Lattice="{_joined(structures.cell[k])}"')
    entries.append(f"Properties={':'.join(columns)}")
    entries.append(f'pbc="{" ".join("T" if p else "F" for p in structures.pbc[k].tolist())}"')
    entries += [f"{key}={_word(value)}" for key, value in words.items()]
    if energy is not None and not bool(energy.isnan()):
        entries.append(f"energy={_number(float(energy))}")
    if stress is not None and not bool(stress.isnan().any()):
        entries.append(f'stress="{_joined(stress)}"')
    rows = [f"{symbol} {' '.join(row)}" for symbol, row in zip(symbols, values, strict=True)]
    return "\n".join([str(len(symbols)), " ".join(entries), *rows]) + "\n"


def comment_words(comment: str) -> dict[str, str]:
    """Return the entries of a comment line as written, quotes and escapes undone."""
    found = {}
    for match in _ENTRY.finditer(comment):
        quoted = match["quoted"]
        found[match["key"]] = match["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return found


def _lines(path: str | os.PathLike[str]) -> list[str]:
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise StructureError(f"{name}: there is no such file: check the path") from None
    except IsADirectoryError:
        raise StructureError(f"{name}: this is a folder: give an extended XYZ file") from None
    except OSError as error:
        raise StructureError(f"{name}: cannot be read: {error.strerror or type(error).__name__}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise StructureError(f"{name}: this is not a text file: give an extended XYZ file") from None
    if "\0" in text:
        raise StructureError(f"{name}: this is not a text file: give an extended XYZ file")
    return text.splitlines()


def _atom_count(path: str, index: int, at: int, lines: Sequence[str]) -> int:
    count = announced_atoms(path, index, at + 1, lines[at])
    left = len(lines) - at - 2
    if left < count:
        raise cut_short(path, index, at + 1, count, left)
    return count


def _parse(path: str, index: int, line: int, lines: Sequence[str]) -> Atoms:
    """Read one block with ASE, whose parser fails in many ways on a broken one: each becomes one line."""
    try:
        frame: Atoms = next(iter(read_xyz(io.StringIO("\n".join(lines) + "\n"), index=slice(None))))
    except Exception as error:
        torn = _torn_line(lines)
        if torn is not None:
            raise _error(
                path,
                index,
                line,
                f"line {line + torn} has {len(lines[torn].split())} entries and the atom before it "
                f"{len(lines[torn - 1].split())}: the file is damaged or cut short",
            ) from error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _error(
            path, index, line, f"not a block of extended XYZ ({reason}): mend it or write it afresh"
        ) from error
    if (frame.numbers < 1).any():
        atom = int(np.flatnonzero(frame.numbers < 1)[0])
        raise _error(path, index, line, f"atom {atom} is of no known element: give a chemical symbol")
    return frame


def _torn_line(lines: Sequence[str]) -> int | None:
    """Return the first atom's line of a block with another number of entries than the one before it."""
    counts = [len(text.split()) for text in lines]
    return next((k for k in range(3, len(counts)) if counts[k] != counts[k - 1]), None)


def _finite(value: object, shape: tuple[int, ...]) -> bool:
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return False
    return numbers.shape == shape and bool(np.isfinite(numbers).all())


def _error(path: str, index: int, line: int, reason: str) -> StructureError:
    return StructureError(f"{path}, frame {index} (line {line}): {reason}")


def _number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else "nan"


def _joined(values: Tensor) -> str:
    return " ".join(_number(x) for x in values.reshape(-1).tolist())


def _word(text: str) -> str:
    if any(not c.isprintable() for c in text):
        raise OutputError(f"the name {text!r} holds a line break or control character: rename it before writing")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
