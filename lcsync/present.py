# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What of a pack is in a folder already: in place, under another name, or in pieces anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lcsync import leftovers
from lcsync.cache import TreeCache
from lcsync.const import SEARCH_FACTOR, SEGMENT_BYTES
from lcsync.contents import Contents, blocks_from_cache, hash_contents
from lcsync.entries import Entries, Kind
from lcsync.files import Version
from lcsync.merkle import Hashes, hash_leaves
from lcsync.pack import Layout, Numbers, PackError, lay_out
from lcsync.reuse import Blocks, State, find_sources, is_as_left, known_blocks, numbers_of, readable_blocks
from lcsync.scan import KIND, MTIME, SIZE, Scan, scan


class Shelf:
    """Blocks that are somewhere here, found by their hash and read from the files that they were in."""

    def __init__(self, root_fd: int, paths: Sequence[bytes | None], layout: Layout, leaves: Hashes) -> None:
        self.layout = layout
        self._contents = Contents(root_fd, paths, layout)
        raw = leaves.tobytes()
        count = min(len(leaves), layout.blocks)
        self._numbers = dict(zip((raw[i * 32 : i * 32 + 32] for i in range(count)), range(count), strict=True))

    def block(self, leaf: bytes) -> bytes | None:
        """The block with this hash, verified."""
        number = self._numbers.get(leaf)
        if number is None:
            return None
        size = self.layout.block_bytes
        data = self._contents.read_at(min(size, self.layout.length - number * size), number * size)
        return data if hash_leaves(data, size).tobytes() == leaf else None

    def close(self) -> None:
        self._contents.close()


@dataclass(eq=False)
class Present:
    """``here``: what is in the folder; ``sources``: for each entry the row of it with content like it, -1: none;
    ``blocks``: hashes of the pack's blocks as those files make them, ``hashed`` of them read now. ``dead``: rows of
    what dead runs left. Not for several threads; ``close`` it.
    """

    here: Scan
    sources: Numbers
    blocks: Blocks
    layout: Layout
    shelves: list[Shelf] = field(default_factory=list)
    hashed: int = 0
    dead: list[int] = field(default_factory=list)

    def useful(self) -> NDArray[np.bool_]:
        """Of which segments the block hashes would help: something like them is here, or blocks may be anywhere."""
        if self.shelves:
            return np.ones(self.layout.segments, bool)
        starts = np.arange(0, self.layout.blocks, SEGMENT_BYTES // self.layout.block_bytes)
        if not len(starts):
            return np.zeros(0, bool)
        marks: NDArray[np.bool_] = np.logical_or.reduceat(self.blocks.known, starts)
        return marks

    def block(self, leaf: bytes) -> bytes | None:
        """A block with this hash from anywhere in the folder, verified."""
        for shelf in self.shelves:
            if (data := shelf.block(leaf)) is not None:
                return data
        return None

    def close(self) -> None:
        for shelf in self.shelves:
            shelf.close()

    def __enter__(self) -> Present:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def look(
    root_fd: int,
    entries: Entries,
    layout: Layout,
    state: State | None = None,
    cache: TreeCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Present:
    """Find what of a pack is below ``root_fd``. What a ``state`` of it or the index on disk knows is not read.

    ``progress`` is called while files are read, and may raise.
    """
    here = scan(root_fd)
    kinds, sizes = here.column(KIND).copy(), here.column(SIZE)
    temporaries = leftovers.temporaries(here)
    dead = leftovers.dead(here, root_fd, temporaries)
    kinds[np.setdiff1d(temporaries, dead)] = -1  # of living runs: not to be relied on
    sources = find_sources(entries, here.paths, kinds, sizes, here.column(MTIME))
    _resume(entries, layout, sizes, sources, leftovers.meant(here, dead))
    blocks = Blocks.none(layout)
    shelves: list[Shelf] = []
    if state is not None and state.block_bytes == layout.block_bytes and state.layout.length:
        same = is_as_left(state, here.paths, here.versions) & (state.entries.kinds == Kind.FILE)
        held = numbers_of(here.paths, state.paths)
        held[(held >= 0) & ~same[held]] = -1
        blocks = known_blocks(layout, state, np.where(sources >= 0, held[sources], -1))
        paths = [path if still else None for path, still in zip(state.paths, same.tolist(), strict=True)]
        shelves.append(Shelf(root_fd, paths, state.layout, state.leaves))
    found = [here.paths[row] if row >= 0 else None for row in sources.tolist()]
    if cache is not None:
        rows = here.versions[sources].tolist()
        versions = [Version(*row) if path else None for row, path in zip(rows, found, strict=True)]
        blocks_from_cache(cache, layout, blocks, versions)
    known = int(blocks.known.sum())
    hash_contents(root_fd, found, layout, blocks, readable_blocks(layout, sources, sizes), progress)
    present = Present(here, sources, blocks, layout, shelves, int(blocks.known.sum()) - known, dead)
    if (shelf := _search(root_fd, layout, present, kinds, state, progress)) is not None:
        shelves.append(shelf)
    return present


def _resume(entries: Entries, layout: Layout, sizes: Numbers, sources: Numbers, meant: dict[bytes, int]) -> None:
    """Take files from what a dead run had of them, where that is not less: of small ones all was written at once."""
    if not meant:
        return
    for entry in entries.of_kind(Kind.FILE):
        row = meant.get(entries.paths[entry], -1)
        if row >= 0 and sizes[row] == entries.sizes[entry] > 0:
            own = sources[entry]
            if own < 0 or sizes[own] != sizes[row] or sizes[row] < layout.block_bytes:
                sources[entry] = row


def _search(
    root_fd: int,
    layout: Layout,
    present: Present,
    kinds: Numbers,
    state: State | None,
    progress: Callable[[int], None] | None,
) -> Shelf | None:
    """Where files lack, those that are here and stand for nothing may have their blocks: read and hash them.

    As many as there is reason for: some times the bytes that lack, in folders of other things too.
    """
    here, sizes = present.here, present.here.column(SIZE)
    lacking = int(layout.sizes[present.sources < 0].sum())
    spare = (kinds == Kind.FILE) & (sizes >= layout.block_bytes)
    left = np.zeros(len(spare), bool)
    left[present.dead] = True
    if not lacking:
        spare &= left
    spare[present.sources[present.sources >= 0]] = False
    if state is not None:
        known = numbers_of(state.paths, here.paths)
        spare[known[is_as_left(state, here.paths, here.versions) & (known >= 0)]] = False
    rows = np.flatnonzero(spare)
    rows = rows[left[rows] | (np.cumsum(np.where(left, 0, sizes)[rows]) <= SEARCH_FACTOR * lacking)]
    if not len(rows):
        return None
    paths = [here.paths[row] for row in rows.tolist()]
    try:
        others = lay_out(paths, sizes[rows], layout.block_bytes)
    except PackError:
        return None
    blocks = Blocks.none(others)
    hash_contents(root_fd, paths, others, blocks, np.ones(len(blocks.known), bool), progress)
    return Shelf(root_fd, paths, others, blocks.leaves)
