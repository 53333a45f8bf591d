# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""One object on its way: what of it is here, what lacks. No I/O but through a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lcsync import merkle
from lcsync.const import SEGMENT_BYTES
from lcsync.merkle import Hashes, Tree, runs
from lcsync.reuse import Blocks
from lcsync.wire import source_geometry


class Store(Protocol):
    """Where an object is put together; offsets and lengths in bytes.

    ``settle``: a range is here, verified; said once of each.
    """

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None: ...

    def read_at(self, length: int, offset: int) -> bytes: ...

    def read_into(self, view: memoryview, offset: int) -> None: ...

    def settle(self, offset: int, length: int) -> None: ...


class Shelves(Protocol):
    """Where blocks may be found by their hash, and of which segments the block hashes would help."""

    def useful(self) -> NDArray[np.bool_]: ...

    def block(self, leaf: bytes) -> bytes | None: ...


class Download:
    """An object of ``length`` bytes under ``root``, being put together in ``store``.

    ``lack`` says which segments are not here yet, ``asked`` of which the block hashes
    would help because an old version of the segment is here.
    """

    def __init__(self, label: bytes, root: bytes, length: int, block_bytes: int, symbol_bytes: int) -> None:
        self.label = label
        self.root = root
        self.length = length
        self.block_bytes = block_bytes
        self.symbol_bytes = symbol_bytes
        self.geometry = source_geometry(length, block_bytes, symbol_bytes)
        self.nodes: list[Hashes] | None = None
        self.store: Store | None = None
        self.lack: NDArray[np.bool_] = np.zeros(0, bool)
        self.asked: NDArray[np.bool_] = np.zeros(0, bool)
        self.elsewhere: NDArray[np.bool_] = np.zeros(0, bool)  # equal to a segment that is on its way
        self.coming: NDArray[np.bool_] = np.zeros(0, bool)  # enough symbols are here to solve it
        self.fresh: NDArray[np.bool_] = np.zeros(0, bool)  # no source round has gone by yet
        self.plain: NDArray[np.bool_] = np.zeros(0, bool)  # to be taken from source groups: repair symbols are forged
        self.symbols: NDArray[np.int64] = np.zeros(0, np.int64)  # of each segment
        self.ready = False  # compared with what was here
        self.object = -1  # number in the assembler
        self.missing_bytes = 0  # in all blocks that were not here
        self._old: Tree | None = None
        self._old_store: Store | None = None
        self._old_blocks: dict[bytes, int] = {}
        self._shelves: Shelves | None = None
        self.padding: Callable[[int], NDArray[np.bool_]] | None = None  # symbols of a segment known to be zeros
        self.unwanted: NDArray[np.bool_] | None = None  # segments that may lack for good
        self.blocks: Blocks | None = None  # all block hashes that become known, if they are to be kept
        self._leaves: dict[int, Hashes] = {}
        self._checked: dict[int, NDArray[np.bool_]] = {}  # blocks of a segment that are here and right
        self._doubtful: set[int] = set()  # segments in the store of which not all blocks are right

    @property
    def outline(self) -> Hashes:
        assert self.nodes is not None
        return self.nodes[0]

    @property
    def done(self) -> bool:
        return self.ready and not self.lack.any()

    def set_outline(self, data: bytes) -> bool:
        """Take the segment hashes if they are what the root promises."""
        hashes = merkle.as_hashes(data)
        nodes = merkle.levels(hashes)
        if merkle.content_root(self.length, self.block_bytes, nodes[-1].tobytes()) != self.root:
            return False
        self.nodes = nodes
        return True

    def set_all_leaves(self, data: bytes) -> bool:
        """Take all block hashes at once, as a manifest has them."""
        leaves = merkle.as_hashes(data)
        if not self.set_outline(merkle.segment_hashes(leaves, self.block_bytes).tobytes()):
            return False
        per = SEGMENT_BYTES // self.block_bytes
        self._leaves = {i: leaves[i * per : (i + 1) * per] for i in range(len(self.outline))}
        return True

    @property
    def sought(self) -> NDArray[np.bool_]:
        """Segments of which symbols are to come: lacking, and not on their way for another place."""
        return self.sought_in(slice(None))

    def sought_in(self, where: slice) -> NDArray[np.bool_]:
        """The same of some segments."""
        return self.lack[where] & ~(self.asked[where] | self.elsewhere[where] | self.coming[where])

    def node_hash(self, level: int, node: int) -> bytes:
        assert self.nodes is not None
        found: bytes = self.nodes[level][node].tobytes()  # half the time of bytes()
        return found

    def segment_hash(self, segment: int) -> bytes:
        return self.node_hash(0, segment)

    def content_of(self, segment: int) -> tuple[bytes, int]:
        """What tells a segment's content: its hash and size, for a forger gives one hash to two sizes."""
        return self.segment_hash(segment), self.geometry.segment_size(segment)

    def blocks_under(self, segments: range) -> int:
        """Blocks of these segments, which may be the last ones."""
        per = SEGMENT_BYTES // self.block_bytes
        return min(segments.stop * per, merkle.block_count(self.length, self.block_bytes)) - segments.start * per

    def leaves(self, segment: int) -> Hashes | None:
        """Block hashes of a segment, as far as they are known; that of an only block is the segment's own."""
        if self.geometry.segment_size(segment) <= self.block_bytes:
            return self.outline[segment : segment + 1]
        return self._leaves.get(segment)

    def compare(
        self, old: Tree | None, store: Store, old_store: Store | None, shelves: Shelves | None = None
    ) -> None:
        """See what is here already: in place, elsewhere in the old content, or nothing but zeros.

        ``store`` starts as a copy of ``old``, whose bytes ``old_store`` reads; or blocks are found on ``shelves``.
        """
        self.store = store
        self._old = old
        self._shelves = shelves
        count = len(self.outline)
        self.lack = np.ones(count, bool)
        self.asked = np.zeros(count, bool)
        self.elsewhere = np.zeros(count, bool)
        self.coming = np.zeros(count, bool)
        self.fresh = np.ones(count, bool)
        self.plain = np.zeros(count, bool)
        self.symbols = np.full(count, self.geometry.symbols(0))
        self.symbols[-1] = self.geometry.symbols(count - 1)
        useful = shelves.useful() if shelves is not None else np.zeros(count, bool)
        places: dict[bytes, int] = {}
        here = 0
        if old is not None and old.length:
            here = len(old.outline)
            both = min(here, count)
            self.lack[:both] = (self.outline[:both] != old.outline[:both]).any(axis=1)
            places = {h.tobytes(): i for i, h in enumerate(old.outline)} if old_store is not None else {}
        if self.unwanted is not None:
            self.lack &= ~self.unwanted
        for first, stop in runs(~self.lack).tolist():
            start = first * SEGMENT_BYTES
            store.settle(start, min(stop * SEGMENT_BYTES, self.length) - start)
        zeros = _zero_hashes(self.length, self.block_bytes) if self.lack.any() else {}
        for segment in np.flatnonzero(self.lack).tolist():
            digest = self.segment_hash(segment)
            if digest in zeros:
                self._put(segment, bytes(zeros[digest]))
            elif digest in places and old_store is not None:
                source = places[digest] * SEGMENT_BYTES
                self._put(segment, old_store.read_at(self.geometry.segment_size(segment), source))
            elif segment < here if shelves is None else useful[segment]:
                self.asked[segment] = True
        if self.padding is not None:
            for segment in np.flatnonzero(self.lack).tolist():
                self.symbols[segment] -= np.count_nonzero(self.padding(segment))
        if self.asked.any() and old is not None and shelves is None:
            self._old_store = old_store
            self._old_blocks = {h.tobytes(): i for i, h in enumerate(old.leaves)}
        self.ready = True
        self.missing_bytes = sum(map(self.geometry.segment_size, np.flatnonzero(self.lack).tolist()))
        for segment in np.flatnonzero(self.asked).tolist():
            leaves = self.leaves(segment)
            if leaves is not None:
                self.set_leaves(segment, leaves.tobytes())

    def _put(self, segment: int, data: bytes | memoryview) -> bool:
        """Write a whole segment if it is what its hash says."""
        assert self.store is not None
        if len(data) != self.geometry.segment_size(segment):  # the last one has the hash of a longer one: a forger's
            return False
        leaves = merkle.hash_leaves(data, self.block_bytes)
        if merkle.top(leaves) != self.segment_hash(segment):
            return False
        self.store.write_at(data, segment * SEGMENT_BYTES)
        self._here(segment, leaves)
        return True

    def _here(self, segment: int, leaves: Hashes) -> None:
        """A segment is in the store, and right."""
        assert self.store is not None
        self.lack[segment] = self.asked[segment] = False
        self._learn(segment, leaves)
        self.store.settle(segment * SEGMENT_BYTES, self.geometry.segment_size(segment))

    def _learn(self, segment: int, leaves: Hashes) -> None:
        if self.blocks is not None:
            first = segment * (SEGMENT_BYTES // self.block_bytes)
            self.blocks.put(np.arange(first, first + len(leaves)), leaves)

    def set_leaves(self, segment: int, data: bytes | memoryview) -> bool:
        """Take the block hashes of a segment if its hash says so, and find out which blocks are here."""
        assert self.store is not None
        leaves = merkle.as_hashes(bytes(data))
        if merkle.top(leaves) != self.segment_hash(segment):
            return False
        self._leaves[segment] = leaves
        self.asked[segment] = False
        self._learn(segment, leaves)
        if segment in self._doubtful:
            size = self.geometry.segment_size(segment)
            here = merkle.hash_leaves(self.store.read_at(size, segment * SEGMENT_BYTES), self.block_bytes)
            self._checked[segment] = (here == leaves).all(axis=1)
            return True
        checked = np.zeros(len(leaves), bool)
        per = SEGMENT_BYTES // self.block_bytes
        for i, leaf in enumerate(leaves):
            at = segment * per + i
            if self._old is not None and at < len(self._old.leaves) and (self._old.leaves[at] == leaf).all():
                checked[i] = True
            elif (block := self._elsewhere(leaf.tobytes(), at)) is not None:
                self.store.write_at(block, at * self.block_bytes)
                checked[i] = True
        self._checked[segment] = checked
        self.missing_bytes -= sum(
            min(self.block_bytes, self.length - (segment * per + i) * self.block_bytes)
            for i in np.flatnonzero(checked).tolist()
        )
        if checked.all():
            self._here(segment, leaves)
        return True

    def _elsewhere(self, leaf: bytes, at: int) -> bytes | None:
        """A block with this hash from another place, verified."""
        if self._shelves is not None:
            return self._shelves.block(leaf)
        old = self._old_blocks.get(leaf)
        if old is None or self._old_store is None:
            return None
        size = min(self.block_bytes, self.length - at * self.block_bytes)
        block = self._old_store.read_at(size, old * self.block_bytes)
        return block if merkle.hash_leaves(block, self.block_bytes).tobytes() == leaf else None

    def blocks_here(self, segment: int) -> NDArray[np.bool_] | None:
        """Which blocks of a lacking segment are in the store, verified; None: none."""
        return self._checked.get(segment)

    def symbols_here(self, segment: int) -> NDArray[np.bool_] | None:
        """Which source symbols of a lacking segment need not come: in the store, or padding; None: none."""
        blocks = self._checked.get(segment)
        marks = None if self.padding is None else self.padding(segment)
        if blocks is None:
            return marks
        here = np.repeat(blocks, -(-self.block_bytes // self.symbol_bytes))[: self.geometry.symbols(segment)]
        return here if marks is None else here | marks

    def fill(self, segment: int, data: memoryview, runs: Sequence[tuple[int, int]]) -> None:
        """Read what is in the store into a segment's ``data``: all but ``runs``."""
        assert self.store is not None
        position = 0
        for offset, length in [*runs, (len(data), 0)]:
            if offset > position:
                self.store.read_into(data[position:offset], segment * SEGMENT_BYTES + position)
            position = offset + length

    def take(self, segment: int, data: memoryview, runs: Sequence[tuple[int, int]]) -> bool:
        """A segment is whole: ``runs`` of ``data`` are new, the rest is in the store.

        Verifies it and writes what is new. If it is not what its hash says, it stays lacking: the
        right blocks are kept, and told from the others as soon as the block hashes are known.
        """
        assert self.store is not None
        start = segment * SEGMENT_BYTES
        leaves = merkle.hash_leaves(data, self.block_bytes)
        if merkle.top(leaves) == self.segment_hash(segment):
            if self.padding is not None and segment not in self._checked:
                runs = [(0, len(data))]  # only padding is between them, or what was written before
            for offset, length in runs:
                self.store.write_at(data[offset : offset + length], start + offset)
            self._here(segment, leaves)
            self._leaves.pop(segment, None)
            self._checked.pop(segment, None)
            self._doubtful.discard(segment)
            return True
        self.store.write_at(data, start)
        self._doubtful.add(segment)
        known = self.leaves(segment)
        if known is not None:
            self._checked[segment] = (leaves == known).all(axis=1)
        return False

    def take_copy(self, segment: int, data: memoryview) -> None:
        """The same segment came for another place: verified already, write it here too."""
        assert self.store is not None
        self.store.write_at(data, segment * SEGMENT_BYTES)
        self._here(segment, merkle.hash_leaves(data, self.block_bytes) if self.blocks is not None else self.outline[:0])


def _zero_hashes(length: int, block_bytes: int) -> dict[bytes, int]:
    """Segment hashes of nothing but zeros, whole and last, with their sizes."""
    out: dict[bytes, int] = {}
    last = length % SEGMENT_BYTES
    for size in {SEGMENT_BYTES if length >= SEGMENT_BYTES else 0, last}:
        if size or not length:
            out[merkle.top(_zero_leaves(size, block_bytes))] = size
    return out


def _zero_leaves(size: int, block_bytes: int) -> Hashes:
    full, rest = divmod(size, block_bytes)
    raw = merkle.zero_leaf(block_bytes) * full + (merkle.zero_leaf(rest) if rest or not size else b"")
    return merkle.as_hashes(raw)
