# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Segments of shared files on their way to the wire: read into a few buffers, hashed, and kept while there is room."""

from __future__ import annotations

import os
from collections import OrderedDict
from sys import getrefcount

from lcsync import files
from lcsync._blake2s import hash_blocks, hash_top
from lcsync.const import PERSON_LEAF, SEGMENT_BYTES, SEGMENT_CACHE_BYTES, SEGMENT_FILES
from lcsync.errors import SourceError
from lcsync.index import Item

REFERENCES = 2  # to a buffer that nobody else reads: by the name here, and by the question


class SegmentCache:
    """Segments read from shared files, each hashed before it is given out; the last used stay in memory.

    Equal segments, of whatever file, are read once. Memory is bounded by ``limit_bytes`` and what is still in use,
    files that stay open by ``open_files``. What `load` gives does not change while anything points into it, such as a
    batch; the view itself ends when its place is needed for another segment.
    """

    def __init__(self, limit_bytes: int = SEGMENT_CACHE_BYTES, open_files: int = SEGMENT_FILES) -> None:
        self.limit_bytes = limit_bytes
        self.open_files = open_files
        self.read_bytes = 0
        self.held_bytes = 0
        self._kept: OrderedDict[bytes, memoryview] = OrderedDict()  # the longest unused first
        self._open: OrderedDict[bytes, int] = OrderedDict()  # path → descriptor

    def load(self, item: Item, segment: int) -> memoryview | None:
        """The bytes of a segment; None, and the item is marked, if they are not what its tree says."""
        if item.data is not None:
            return memoryview(item.data)[segment * SEGMENT_BYTES : (segment + 1) * SEGMENT_BYTES]
        digest = item.tree.nodes[0][segment].tobytes()
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest]
        start = segment * SEGMENT_BYTES
        left = item.tree.length - start
        size = left if left < SEGMENT_BYTES else SEGMENT_BYTES
        view = memoryview(bytearray(size)) if self.held_bytes + size <= self.limit_bytes else self._room(size)
        self.held_bytes += size
        if (
            self._read(item, view, start) != size
            or hash_top(hash_blocks(view, item.tree.block_bytes, PERSON_LEAF)) != digest
        ):
            item.changed = True
            self.held_bytes -= size
            return None
        self.read_bytes += size
        self._kept[digest] = view
        return view

    def _room(self, size: int) -> memoryview:
        """A buffer of ``size`` bytes: one that made room for it if it fits, for new memory costs page faults."""
        fits = None
        while self._kept and self.held_bytes + size > self.limit_bytes:
            view = self._kept.popitem(last=False)[1]
            buffer, have = view.obj, view.nbytes
            self.held_bytes -= have
            try:
                view.release()
            except BufferError:  # a batch still points into it: not to be written to
                continue
            if have == size and getrefcount(buffer) == REFERENCES:
                fits = buffer
        return memoryview(fits or bytearray(size))

    def _read(self, item: Item, view: memoryview, start: int) -> int:
        """Fill ``view`` from the item's file; the bytes read: fewer if it is too short, -1 if it is not there."""
        path, version = item.path, item.version
        try:
            if path in self._open:
                status = os.fstat(fd := self._open[path])
            if path not in self._open or (
                status.st_mtime_ns != version.mtime_ns
                or status.st_ctime_ns != version.ctime_ns
                or status.st_size != version.length
            ):  # the inode is the one that was opened
                fd = self._reopen(path)
            return os.preadv(fd, [view], start)
        except (OSError, SourceError):
            return -1

    def _reopen(self, path: bytes) -> int:
        """Open a file, perhaps in place of one that is there no more."""
        if (old := self._open.pop(path, None)) is not None:
            os.close(old)
        while len(self._open) >= self.open_files:
            os.close(self._open.popitem(last=False)[1])
        fd = self._open[path] = files.open_source(path)
        return fd

    def close_files(self) -> None:
        """Let go of all files: one that was deleted takes up its space until then."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close_files()
