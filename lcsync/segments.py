# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Segments of shared files on their way to the wire: read into a few buffers, hashed, and kept while there is room."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from sys import getrefcount

from lcsync import files
from lcsync.const import SEGMENT_BYTES, SEGMENT_CACHE_BYTES, SEGMENT_FILES
from lcsync.errors import SourceError
from lcsync.index import Item
from lcsync.merkle import segment_root

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
        digest = item.tree.outline[segment].tobytes()
        view = self._kept.get(digest)
        if view is not None:
            self._kept.move_to_end(digest)
            return view
        start = segment * SEGMENT_BYTES
        view = self._room(min(SEGMENT_BYTES, item.tree.length - start))
        if not self._read(item, view, start) or segment_root(view, item.tree.block_bytes) != digest:
            item.changed = True
            self.held_bytes -= len(view)
            return None
        self.read_bytes += len(view)
        self._kept[digest] = view
        return view

    def _room(self, size: int) -> memoryview:
        """A buffer of ``size`` bytes: one that made room for it if it fits, for new memory costs page faults."""
        fits = None
        while self._kept and self.held_bytes + size > self.limit_bytes:
            view = self._kept.popitem(last=False)[1]
            buffer, have = view.obj, len(view)
            self.held_bytes -= have
            with suppress(BufferError):  # a batch still points into it: not to be written to
                view.release()
                if have == size and getrefcount(buffer) == REFERENCES:
                    fits = buffer
        self.held_bytes += size
        return memoryview(fits or bytearray(size))

    def _read(self, item: Item, view: memoryview, start: int) -> bool:
        """Fill ``view`` from the item's file; false if it is not there, or too short."""
        try:
            fd = self._open.get(item.path)
            if fd is None or files.version(fd) != item.version:
                fd = self._reopen(item.path)
            return os.preadv(fd, [view], start) == len(view)
        except (OSError, SourceError):
            return False

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
