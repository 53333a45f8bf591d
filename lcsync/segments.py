# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Segments of what is shared on their way to the wire: read into a few buffers, hashed, kept while there is room."""

from __future__ import annotations

import os
from collections import OrderedDict
from sys import getrefcount
from typing import Protocol

from lcsync import files
from lcsync._blake2s import hash_blocks, hash_top
from lcsync.const import PACKS_OPEN, PERSON_LEAF, SEGMENT_BYTES, SEGMENT_CACHE_BYTES, SEGMENT_FILES
from lcsync.contents import Contents
from lcsync.errors import SourceError
from lcsync.merkle import Tree
from lcsync.packing import Pack

REFERENCES = 2  # to a buffer that nobody else reads: by the name here, and by the question


class OpenFiles:
    """What stays open to be read from: the files that were used last, and the folders of packs."""

    def __init__(self, files_max: int = SEGMENT_FILES, packs_max: int = PACKS_OPEN) -> None:
        self.files_max = files_max
        self.packs_max = packs_max
        self._files: OrderedDict[bytes, int] = OrderedDict()  # path → descriptor
        self._packs: OrderedDict[Pack, Contents] = OrderedDict()

    def file(self, path: bytes, version: files.Version) -> int:
        """A descriptor of the file at a path, which has this version: another one is opened anew. OSError, SourceError.

        The inode is not compared: it is the one that was opened.
        """
        if path in self._files:
            status = os.fstat(fd := self._files[path])
            if (
                status.st_mtime_ns == version.mtime_ns
                and status.st_ctime_ns == version.ctime_ns
                and status.st_size == version.length
            ):
                return fd
            os.close(self._files.pop(path))
        while len(self._files) >= self.files_max:
            os.close(self._files.popitem(last=False)[1])
        fd = self._files[path] = files.open_source(path)
        return fd

    def contents(self, pack: Pack) -> Contents:
        """The content of a folder, to be read until the next call. OSError."""
        if pack in self._packs:
            self._packs.move_to_end(pack)
            return self._packs[pack]
        while len(self._packs) >= self.packs_max:
            self._packs.popitem(last=False)[1].close()
        contents = self._packs[pack] = pack.open()
        return contents

    def close(self) -> None:
        """Let go of all: a file that was deleted takes up its space until then."""
        while self._files:
            os.close(self._files.popitem()[1])
        while self._packs:
            self._packs.popitem()[1].close()

    def __del__(self) -> None:
        self.close()


class Source(Protocol):
    """An object that is shared: ``data`` is all of it if that is in memory."""

    @property
    def tree(self) -> Tree: ...
    @property
    def data(self) -> bytes | None: ...

    def read(self, opened: OpenFiles, view: memoryview, start: int) -> int:
        """Fill ``view`` with the bytes from ``start`` on; how many there were. OSError, SourceError."""

    def spoil(self, segment: int) -> None:
        """A segment is not what the tree says."""


class SegmentCache:
    """Segments read from what is shared, each hashed before it is given out; the last used stay in memory.

    Equal segments, of whatever file, are read once. Memory is bounded by ``limit_bytes`` and what is still in use. What
    `load` gives does not change while anything points into it, such as a batch; the view itself ends when its place is
    needed for another segment.
    """

    def __init__(self, limit_bytes: int = SEGMENT_CACHE_BYTES, opened: OpenFiles | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.opened = opened or OpenFiles()
        self.read_bytes = 0
        self.held_bytes = 0
        self._kept: OrderedDict[bytes, memoryview] = OrderedDict()  # the longest unused first

    def load(self, source: Source, segment: int) -> memoryview | None:
        """The bytes of a segment; None, and the source is told, if they are not what its tree says."""
        tree, data = source.tree, source.data
        if data is not None:
            return memoryview(data)[segment * SEGMENT_BYTES : (segment + 1) * SEGMENT_BYTES]
        digest = tree.nodes[0][segment].tobytes()
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest]
        start = segment * SEGMENT_BYTES
        left = tree.length - start
        size = left if left < SEGMENT_BYTES else SEGMENT_BYTES
        view = memoryview(bytearray(size)) if self.held_bytes + size <= self.limit_bytes else self._room(size)
        self.held_bytes += size
        if (
            self._read(source, view, start) != size
            or hash_top(hash_blocks(view, tree.block_bytes, PERSON_LEAF)) != digest
        ):
            source.spoil(segment)
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

    def _read(self, source: Source, view: memoryview, start: int) -> int:
        try:
            return source.read(self.opened, view, start)
        except (OSError, SourceError):
            return -1
