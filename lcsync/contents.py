# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A pack's content, read from the files that it is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lcsync.cache import TreeCache
from lcsync.const import READ_BYTES, SEGMENT_BYTES
from lcsync.files import Version
from lcsync.merkle import hash_leaves, runs
from lcsync.pack import Layout
from lcsync.pieces import in_order
from lcsync.reuse import Blocks
from lcsync.scan import Folders

SOURCE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


class Contents:
    """Reads a pack's bytes. ``paths``: for each entry the file below ``root_fd`` with its content, if there is one.

    Not for several threads; ``close`` it.
    """

    def __init__(self, root_fd: int, paths: Sequence[bytes | None], layout: Layout) -> None:
        self.paths = paths
        self.layout = layout
        self.opened = 0  # files, so far
        self._folders = Folders(root_fd)
        self._entry = -1  # the large file that is open as _fd
        self._fd = -1

    def fill(self, view: memoryview, offset: int) -> list[int]:
        """The pack's bytes at ``offset``, as many as ``view`` takes; the entries of which some were not there.

        What was not there is zeros, as padding is.
        """
        lacking = []
        at = 0
        for entry, start, place, size in self.layout.pieces(offset, len(view)):
            if place > at:
                view[at:place] = bytes(place - at)
            at = place + size
            done = 0
            with suppress(OSError):
                done = self.read(entry, view[place:at], start)
            if done < size:
                view[place + done : at] = bytes(size - done)
                lacking.append(entry)
        view[at:] = bytes(len(view) - at)
        return lacking

    def read_at(self, length: int, offset: int) -> bytes:
        """A range of the pack."""
        buffer = bytearray(length)
        self.fill(memoryview(buffer), offset)
        return bytes(buffer)

    def read(self, entry: int, view: memoryview, start: int) -> int:
        """A file's bytes from ``start`` on; how many there were. OSError."""
        fd = self._fd if entry == self._entry else self._open(entry)
        if fd < 0:
            return 0
        try:
            done = 0
            while done < len(view) and (n := os.preadv(fd, [view[done:]], start + done)):
                done += n
            return done
        finally:
            if fd != self._fd:
                os.close(fd)

    def _open(self, entry: int) -> int:
        path = self.paths[entry]
        if path is None:
            return -1
        above, name = self._folders.above(path)
        fd = os.open(name, SOURCE_FLAGS, dir_fd=above)
        self.opened += 1
        if self.layout.sizes[entry] >= self.layout.block_bytes:  # small ones are read in one go
            self.forget()
            self._entry, self._fd = entry, fd
        return fd

    def forget(self) -> None:
        """Close the file that was read last: it is about to be replaced."""
        if self._fd >= 0:
            os.close(self._fd)
        self._entry = self._fd = -1

    def close(self) -> None:
        self.forget()
        self._folders.close()

    def __enter__(self) -> Contents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def hash_contents(
    root_fd: int,
    paths: Sequence[bytes | None],
    layout: Layout,
    blocks: Blocks,
    wanted: NDArray[np.bool_],
    progress: Callable[[int], None] | None = None,
) -> set[int]:
    """Read and hash the ``wanted`` blocks that are not known yet, in a few threads, into ``blocks``.

    Returns the entries of which some bytes were not there; the blocks with those stay unknown. ``progress`` gets the
    bytes of the pack that are done, and may raise.
    """
    todo = wanted & ~blocks.known
    lacking: set[int] = set()
    readers: list[Contents] = []
    size = layout.block_bytes
    step = max(SEGMENT_BYTES, size)

    def work(piece: range) -> list[int]:
        found: list[int] = []
        reader = readers.pop() if readers else Contents(root_fd, paths, layout)
        try:
            for first, stop in (
                runs(todo[piece.start // size : -(-piece.stop // size)]) + piece.start // size
            ).tolist():
                for at in range(first * size, min(stop * size, layout.length), step):
                    buffer = bytearray(min(step, min(stop * size, layout.length) - at))
                    missed = reader.fill(memoryview(buffer), at)
                    leaves = hash_leaves(buffer, size)
                    numbers = np.arange(at // size, at // size + len(leaves))
                    if missed:
                        found += missed
                        numbers, leaves = _without(layout, missed, numbers, leaves)
                    blocks.put(numbers, leaves)
        finally:
            readers.append(reader)
        return found

    def then(piece: range, found: list[int]) -> None:
        lacking.update(found)
        if progress:
            progress(piece.stop)

    try:
        if layout.length:
            in_order(work, layout.length, max(READ_BYTES, step), then)
        else:
            blocks.put(np.zeros(1, np.int64), hash_leaves(b"", size))
    finally:
        for reader in readers:
            reader.close()
    return lacking


def _without(
    layout: Layout, missed: list[int], numbers: NDArray[np.int64], leaves: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    keep = np.ones(len(numbers), bool)
    for entry in missed:
        first = int(layout.starts[entry]) // layout.block_bytes
        last = (int(layout.starts[entry] + layout.sizes[entry]) - 1) // layout.block_bytes
        keep &= (numbers < first) | (numbers > last)
    return numbers[keep], leaves[keep]


def blocks_from_cache(cache: TreeCache, layout: Layout, blocks: Blocks, versions: Sequence[Version | None]) -> None:
    """Take from the index on disk what it knows of files with blocks of their own. ``versions``: of what is here, by
    entry. The end of a file, where padding follows, is left to be read.
    """
    size = layout.block_bytes
    asked: list[tuple[int, int, Version]] = []  # first block, number of whole ones
    for entry in np.flatnonzero(layout.sizes >= size).tolist():
        version = versions[entry]
        first, whole = int(layout.starts[entry]) // size, int(layout.sizes[entry]) // size
        if version is not None and version.length >= whole * size and not blocks.known[first : first + whole].all():
            asked.append((first, whole, version))
    found = cache.get_many([version for _, _, version in asked], size)
    for (first, whole, _), known in zip(asked, found, strict=True):
        if known is not None:
            blocks.put(np.arange(first, first + whole), known.tree.leaves[:whole])
