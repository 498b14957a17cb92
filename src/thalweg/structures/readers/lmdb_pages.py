"""The key-value pairs of an LMDB file, read page by page with every offset checked.

LMDB's own library maps the file into memory and trusts it: a truncated or damaged file ends the process. This
reader trusts nothing, needs no package and writes no lock file beside the data. It reads data version 1 (LMDB 0.9)
of 64-bit little-endian machines, as published in Symas' lmdb.h and mdb.c:

- two meta pages (pages 0 and 1; the one of the higher transaction counts): 16 bytes of page header, then magic
  0xBEEFC0DE, version, address, map size, two trees of 48 bytes (free pages; main), last page, transaction;
- a page begins with its number (8 bytes), 2 of padding, flags, and the bounds of its free space; a branch or leaf
  page then lists 2-byte offsets of its nodes;
- a node holds 8 bytes (low, high, flags, key size), the key and, on a leaf, the value or, if that is big, the
  number of the first of its overflow pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from thalweg.errors import StructureError

MAGIC = 0xBEEFC0DE

_HEADER = struct.Struct("<QHHHH")  # number, padding, flags, lower, upper
_META = struct.Struct("<IIQQ")  # magic, version, address, map size
_TREE = struct.Struct("<IHHQQQQQ")  # padding (page size in the first tree), flags, depth, pages of three kinds, …
_NODE = struct.Struct("<HHHH")  # low, high, flags, key size
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG, _SUBTREE, _DUPLICATES = 0x01, 0x02, 0x04
_EMPTY = 2**64 - 1
_LARGEST_VALUE = 1 << 28  # 256 MiB


@dataclass(frozen=True)
class _Root:
    page_size: int
    page: int
    depth: int
    transaction: int


def is_lmdb(path: Path) -> bool:
    """Whether the file begins with a meta page of LMDB; may raise OSError."""
    with path.open("rb") as file:
        head = file.read(24)
    return len(head) == 24 and int.from_bytes(head[16:20], "little") == MAGIC


def read_items(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of the main tree, in the order of the keys.

    Raises:
        StructureError: the file is truncated or damaged, of another version, or holds several values to a key.
        OSError: the system refuses to read it.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        root = _newest(file)
        if root.page == _EMPTY:
            return
        pages = _Pages(file, root.page_size, size)
        yield from pages.items(root)


def _newest(file: BinaryIO) -> _Root:
    first = _meta(file, 0)
    if first is None:
        raise StructureError("no LMDB meta page: the file is damaged")
    second = _meta(file, first.page_size)
    return first if second is None or second.transaction < first.transaction else second


def _meta(file: BinaryIO, offset: int) -> _Root | None:
    file.seek(offset)
    data = file.read(_HEADER.size + _META.size + 2 * _TREE.size + 16)
    if len(data) < _HEADER.size + _META.size + 2 * _TREE.size + 16:
        raise StructureError("cut inside an LMDB meta page: the file is truncated")
    magic, version, _, _ = _META.unpack_from(data, _HEADER.size)
    if magic != MAGIC:
        return None
    if version != 1:
        raise StructureError(
            f"LMDB data version {version}: known is 1 (LMDB 0.9): rewrite it with mdb_dump and mdb_load"
        )
    trees = _HEADER.size + _META.size
    page_size = _TREE.unpack_from(data, trees)[0]
    if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        raise StructureError(f"LMDB page size {page_size}: allowed are powers of two from 512 to 65536: damaged")
    flags, depth, _, _, _, _, page = _TREE.unpack_from(data, trees + _TREE.size)[1:]
    if flags & 0x04:
        raise StructureError("an LMDB with several values to a key is no data set of structures")
    transaction = int.from_bytes(data[trees + 2 * _TREE.size + 8 :][:8], "little")
    return _Root(page_size, page, depth, transaction)


class _Pages:
    """Pages of one open file; each is read once at most, so a circle of pages ends in an error."""

    def __init__(self, file: BinaryIO, page_size: int, size: int) -> None:
        self.file, self.page_size, self.count = file, page_size, size // page_size
        self.seen: set[int] = set()

    def items(self, root: _Root) -> Iterator[tuple[bytes, bytes]]:
        """Walk the tree from left to right."""
        pending = [(root.page, root.depth)]
        while pending:
            number, depth = pending.pop()
            flags, page, offsets = self._page(number)
            if flags & _LEAF and depth == 1:
                for offset in offsets:
                    yield self._item(page, offset)
            elif flags & _BRANCH and depth > 1:
                children = [self._child(page, offset) for offset in offsets]
                pending.extend((child, depth - 1) for child in reversed(children))
            else:
                raise StructureError(f"LMDB page {number} is neither branch nor leaf where one is due: damaged")

    def _page(self, number: int) -> tuple[int, bytes, tuple[int, ...]]:
        if number < 2 or number >= self.count:
            raise StructureError(f"LMDB page {number} of {self.count}: the file is truncated or damaged")
        if number in self.seen:
            raise StructureError(f"LMDB page {number} is met twice: the file is damaged")
        self.seen.add(number)
        page = self._read(number * self.page_size, self.page_size)
        its_number, _, flags, lower, upper = _HEADER.unpack_from(page)
        if its_number != number or not _HEADER.size <= lower <= upper <= self.page_size or lower % 2:
            raise StructureError(f"LMDB page {number} has a damaged header")
        return flags, page, struct.unpack_from(f"<{(lower - _HEADER.size) // 2}H", page, _HEADER.size)

    def _child(self, page: bytes, offset: int) -> int:
        low, high, top, _ = self._node(page, offset)
        return low | high << 16 | top << 32

    def _item(self, page: bytes, offset: int) -> tuple[bytes, bytes]:
        low, high, flags, key_size = self._node(page, offset)
        size, start = low | high << 16, offset + _NODE.size + key_size
        key = page[offset + _NODE.size : start]
        if flags & (_SUBTREE | _DUPLICATES):
            raise StructureError(f"LMDB key {key[:40]!r} holds a tree of its own: this is no data set of structures")
        if not flags & _BIG:
            if start + size > len(page):
                raise StructureError(f"the value of LMDB key {key[:40]!r} runs over its page: damaged")
            return key, page[start : start + size]
        if start + 8 > len(page):
            raise StructureError(f"the value of LMDB key {key[:40]!r} runs over its page: damaged")
        return key, self._overflow(key, int.from_bytes(page[start : start + 8], "little"), size)

    def _overflow(self, key: bytes, number: int, size: int) -> bytes:
        needed = -(-(_HEADER.size + size) // self.page_size)
        if size > _LARGEST_VALUE or number < 2 or number + needed > self.count:
            raise StructureError(
                f"the value of LMDB key {key[:40]!r}, {size} bytes at page {number}, lies outside the "
                f"{self.count} pages of the file: truncated or damaged"
            )
        data = self._read(number * self.page_size, _HEADER.size + size)
        if not int.from_bytes(data[10:12], "little") & _OVERFLOW:
            raise StructureError(f"the value of LMDB key {key[:40]!r} points to a page of another kind: damaged")
        return data[_HEADER.size :]

    def _node(self, page: bytes, offset: int) -> tuple[int, int, int, int]:
        if offset < _HEADER.size or offset + _NODE.size > len(page):
            raise StructureError("an LMDB node lies outside its page: the file is damaged")
        low, high, flags, key_size = _NODE.unpack_from(page, offset)
        if offset + _NODE.size + key_size > len(page):
            raise StructureError("an LMDB key runs over its page: the file is damaged")
        return low, high, flags, key_size

    def _read(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) < size:
            raise StructureError("cut inside an LMDB page: the file is truncated")
        return data
