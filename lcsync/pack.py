# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A folder's content as one object: where the bytes of each file are (docs/protocol.md, "Packs").

A file of a block or more has blocks of its own; smaller ones share blocks, none crosses from one into the next. So the
data of a block is at its start and the rest is padding, known to both sides, and a file that changes, comes or goes
changes the blocks that it is in and few others.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2s
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcsync.const import (
    OBJECT_BYTES_MAX,
    PATH_HASH_FACTOR,
    PERSON_PACK,
    RUNS_KEPT,
    SEGMENT_BYTES,
    SHARED_BLOCKS_MEAN,
)
from lcsync.merkle import runs

Numbers = NDArray[np.int64]


class PackError(Exception):
    """Why sizes can't be laid out."""


class Piece(NamedTuple):
    """``size`` bytes of a file, from ``offset`` on, that are at ``at`` of the range that was asked for."""

    entry: int
    offset: int
    at: int
    size: int


def pack_root(list_root: bytes, data_root: bytes) -> bytes:
    """The root of a folder: binds the roots of its entry list and of its content."""
    return blake2s(list_root + data_root, person=PERSON_PACK).digest()


def path_hashes(paths: Sequence[bytes]) -> NDArray[np.uint64]:
    """32 bits of each path, the upper ones well mixed: what decides where shared blocks and chunks of lists end."""
    crcs = np.fromiter(map(zlib.crc32, paths), np.uint64, len(paths))
    return crcs * np.uint64(PATH_HASH_FACTOR) & np.uint64(0xFFFFFFFF)


@dataclass(eq=False)
class Layout:
    """Where files are in a pack of ``length`` bytes: ``starts`` and ``sizes`` by entry, in bytes.

    Entries of no bytes are nowhere: their start is 0. All methods cost by the number of entries or of bytes that are
    asked for, never by what sizes claim.
    """

    block_bytes: int
    sizes: Numbers = field(repr=False)
    starts: Numbers = field(repr=False)
    length: int

    @cached_property
    def order(self) -> Numbers:
        """The entries that have bytes, in the order of their places."""
        having = np.flatnonzero(self.sizes)
        return having[np.argsort(self.starts[having], kind="stable")]

    @cached_property
    def _begins(self) -> Numbers:
        return self.starts[self.order]

    @cached_property
    def _ends(self) -> Numbers:
        return self._begins + self.sizes[self.order]

    @property
    def blocks(self) -> int:
        return -(-self.length // self.block_bytes)

    @property
    def segments(self) -> int:
        return -(-self.length // SEGMENT_BYTES)

    def between(self, offset: int, length: int) -> Numbers:
        """The entries with bytes in a range of the pack, in order."""
        first, stop = self._span(offset, length)
        return self.order[first:stop]

    def _span(self, offset: int, length: int) -> tuple[int, int]:
        first = int(self._ends.searchsorted(offset, "right"))
        return first, max(first, int(self._begins.searchsorted(offset + length, "left")))

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """What files have in a range of the pack, in order; the bytes between the pieces are padding: zeros."""
        first, stop = self._span(offset, length)
        begins = np.maximum(self._begins[first:stop], offset)
        sizes = np.minimum(self._ends[first:stop], offset + length) - begins
        columns = (self.order[first:stop], begins - self._begins[first:stop], begins - offset, sizes)
        return list(map(Piece, *(column.tolist() for column in columns)))

    def filled(self, first: int, stop: int) -> Numbers:
        """Bytes of data in each of the blocks ``first … stop - 1``; the rest of the block is padding."""
        heads = np.arange(first, stop, dtype=np.int64) * self.block_bytes
        tails = heads + self.block_bytes
        last = np.searchsorted(self._begins, tails, "left") - 1
        filled: Numbers = np.minimum(self._ends[last], tails) - heads
        return filled

    def padding(self, segment: int, symbol_bytes: int) -> NDArray[np.bool_]:
        """Which source symbols of a segment are nothing but padding: they are never sent."""
        start = segment * SEGMENT_BYTES
        stop = min(start + SEGMENT_BYTES, self.length)
        filled = self.filled(start // self.block_bytes, -(-stop // self.block_bytes))
        symbols = np.arange(-(-self.block_bytes // symbol_bytes), dtype=np.int64) * symbol_bytes
        marks: NDArray[np.bool_] = (symbols >= filled[:, None]).reshape(-1)
        short = -(-(stop % self.block_bytes) // symbol_bytes)  # of the last block, which ends with its data
        return marks[: len(marks) - len(symbols) + short] if short else marks


class Sent:
    """Which source symbols of a pack are sent: all but those that are nothing but padding."""

    def __init__(self, layout: Layout, symbol_bytes: int) -> None:
        self._layout = layout
        self._symbol_bytes = symbol_bytes
        per = -(-layout.block_bytes // symbol_bytes)
        ends = layout.starts[layout.order] + layout.sizes[layout.order]
        blocks = (ends - 1) // layout.block_bytes
        last = np.flatnonzero(blocks[1:] != blocks[:-1])  # in its block; the end of the pack has no padding
        filled = ends[last] - blocks[last] * layout.block_bytes
        segments = blocks[last] * layout.block_bytes // SEGMENT_BYTES
        padding = np.bincount(segments, per - -(-filled // symbol_bytes), layout.segments)
        self._padding = np.concatenate([np.zeros(1, np.int64), np.cumsum(padding.astype(np.int64))])
        self._runs: OrderedDict[int, list[tuple[int, int]]] = OrderedDict()

    def padding(self, first: int, count: int) -> int:
        """How many symbols of some segments are not sent."""
        return int(self._padding[first + count] - self._padding[first])

    def runs(self, segment: int) -> list[tuple[int, int]]:
        """The symbols of a segment that are sent: first and past-the-last number of each run."""
        found = self._runs.get(segment)
        if found is None:
            found = self._runs[segment] = list(
                map(tuple, runs(~self._layout.padding(segment, self._symbol_bytes)).tolist())
            )
            if len(self._runs) > RUNS_KEPT:
                self._runs.popitem(last=False)
        return found


def lay_out(paths: Sequence[bytes], sizes: Numbers, block_bytes: int) -> Layout:
    """Give each file its place. ``paths`` in byte order, ``sizes`` in bytes, 0 for what has no content. PackError."""
    if float(sizes.sum(dtype=np.float64)) > OBJECT_BYTES_MAX:
        raise PackError("more bytes than an object may have")
    large = np.flatnonzero(sizes >= block_bytes)
    small = np.flatnonzero((sizes > 0) & (sizes < block_bytes))
    firsts, ends, numbers = _share([paths[i] for i in small.tolist()], sizes[small], block_bytes)
    # a shared block takes the place of the first file in it
    keys = np.concatenate([large, small[firsts]])
    blocks = np.concatenate([-(-sizes[large] // block_bytes), np.ones(len(firsts), np.int64)])
    used = np.concatenate([sizes[large], ends])
    order = np.argsort(keys)
    heads = np.empty(len(keys), np.int64)
    heads[order] = (np.cumsum(blocks[order]) - blocks[order]) * block_bytes
    starts = np.zeros(len(sizes), np.int64)
    starts[large] = heads[: len(large)]
    if len(small):
        summed = np.cumsum(sizes[small]) - sizes[small]
        starts[small] = heads[len(large) :][numbers] + summed - summed[firsts][numbers]
    length = int(heads[order[-1]] + used[order[-1]]) if len(order) else 0
    if length > OBJECT_BYTES_MAX:
        raise PackError("more bytes than an object may have")
    return Layout(block_bytes, sizes, starts, length)


def _share(paths: Sequence[bytes], sizes: Numbers, block_bytes: int) -> tuple[Numbers, Numbers, Numbers]:
    """Small files into shared blocks: of each block its first file and the bytes used, of each file its block."""
    count = len(sizes)
    summed = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    # a block is closed after a path with a small hash: the more likely, the more bytes the file has
    weights = path_hashes(paths) * np.uint64(SHARED_BLOCKS_MEAN * block_bytes)
    closing = np.flatnonzero(weights < sizes.astype(np.uint64) << np.uint64(32))
    closed = np.append(closing + 1, count)
    by_close = closed[np.searchsorted(closing, np.arange(count), "left")]
    by_room = np.searchsorted(summed, summed[:-1] + block_bytes, "right") - 1
    following = np.minimum(by_close, by_room).tolist()
    firsts = []
    at = 0
    while at < count:
        firsts.append(at)
        at = following[at]
    heads = np.array(firsts, np.int64)
    stops = np.append(heads[1:], count)
    numbers = np.repeat(np.arange(len(heads)), stops - heads)
    return heads, summed[stops] - summed[heads], numbers
