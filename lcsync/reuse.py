# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What of a new pack is here already: where to look for each file, and which blocks need not even be read. No I/O.

A state of a folder that is kept from before has the block hashes of its pack. A block of the new pack that holds the
same files, none of them changed since, has the same hash. All other guesses are only where to look: hashes decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lcsync.columns import pack_sections, unpack_sections
from lcsync.const import HASH_BYTES
from lcsync.entries import Entries, EntriesError, Kind, decode
from lcsync.errors import UnsafeName
from lcsync.merkle import Hashes, as_hashes
from lcsync.pack import Layout, Numbers, PackError, lay_out


@dataclass(eq=False)
class State:
    """A folder as it once was: ``root`` of its pack, ``paths`` and ``versions`` (n, 5) of what was there, by entry.

    ``how``: what was applied of the attributes, in the caller's words. ``data``: the encoded entry list. ``leaves``:
    the block hashes of its content in blocks of ``block_bytes``.
    """

    root: bytes
    how: bytes
    block_bytes: int
    paths: list[bytes] = field(repr=False)
    versions: Numbers = field(repr=False)
    data: bytes = field(repr=False)
    leaves: Hashes = field(repr=False)

    def to_bytes(self) -> bytes:
        """To be kept on this machine."""
        sections = (
            self.root, self.how, self.block_bytes.to_bytes(4, "big"), b"\0".join(self.paths), self.versions.tobytes(),
            self.data, self.leaves.tobytes(),
        )  # fmt: skip
        return pack_sections(dict(enumerate(sections, 1)))

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """What ``to_bytes`` gave; ColumnError or ValueError if it is none."""
        sections = unpack_sections(data, 7)
        root, how, block, paths, versions, entries, leaves = (sections.get(number, b"") for number in range(1, 8))
        out = cls(
            root, how, int.from_bytes(block, "big"), paths.split(b"\0"),
            np.frombuffer(versions, np.int64).reshape(-1, 5), entries, as_hashes(leaves),
        )  # fmt: skip
        if len(out.paths) != len(out.versions) or not out.block_bytes:
            raise ValueError("a state of another length")
        return out

    def is_sound(self) -> bool:
        """Whether what is in it fits together: it is from a disk, and maybe of another version of the program."""
        try:
            return len(self.entries) == len(self.paths) and len(self.leaves) == max(1, self.layout.blocks)
        except (EntriesError, UnsafeName, PackError):
            return False

    @cached_property
    def entries(self) -> Entries:
        return decode(self.data)

    @cached_property
    def layout(self) -> Layout:
        return lay_out(self.paths, self.entries.sizes, self.block_bytes)


def numbers_of(wanted: Sequence[bytes], paths: Sequence[bytes]) -> Numbers:
    """Where each wanted path is in ``paths``, -1: nowhere."""
    if wanted == paths:
        return np.arange(len(paths), dtype=np.int64)
    places = dict(zip(paths, range(len(paths)), strict=True))
    return np.fromiter((places.get(path, -1) for path in wanted), np.int64, len(wanted))


def is_as_left(state: State, paths: Sequence[bytes], versions: Numbers) -> NDArray[np.bool_]:
    """Which entries of a state are as it left them, by what is found now."""
    found = numbers_of(state.paths, paths)
    same: NDArray[np.bool_] = (found >= 0) & (versions[found] == state.versions).all(axis=1)
    return same


def find_sources(new: Entries, paths: Sequence[bytes], kinds: Numbers, sizes: Numbers, mtimes_ns: Numbers) -> Numbers:
    """For each entry the file here to take its content from, -1: none. Columns of what is here, by path.

    The file of that path; else, because files are renamed, moved and copied, one of the same size and time; else one of
    the same size and last component.
    """
    sources = numbers_of(new.paths, paths)
    sources[sources >= 0] = np.where(kinds[sources[sources >= 0]] == Kind.FILE, sources[sources >= 0], -1)
    wanted = (new.kinds == Kind.FILE) & (new.sizes > 0)
    sources[~wanted] = -1
    lacking = np.flatnonzero(wanted & (sources < 0))
    if len(lacking):
        here = np.flatnonzero((kinds == Kind.FILE) & np.isin(sizes, new.sizes[lacking])).tolist()
        by_name = {(sizes[i], paths[i].rpartition(b"/")[2]): i for i in here}
        by_time = {(sizes[i], mtimes_ns[i]): i for i in here}
        for entry in lacking.tolist() if here else ():
            size = new.sizes[entry]
            at = by_name.get((size, new.paths[entry].rpartition(b"/")[2]), -1)
            if new.mtimes_ns is not None:
                at = by_time.get((size, new.mtimes_ns[entry]), at)
            sources[entry] = at
    return sources


@dataclass(eq=False)
class Blocks:
    """Hashes of a pack's blocks as far as they are ``known``, in its layout; the rows of the others are zeros."""

    known: NDArray[np.bool_]
    leaves: Hashes

    @classmethod
    def none(cls, layout: Layout) -> Blocks:
        count = max(1, layout.blocks)
        return cls(np.zeros(count, bool), np.zeros((count, HASH_BYTES), np.uint8))

    def put(self, blocks: Numbers, leaves: Hashes) -> None:
        self.known[blocks] = True
        self.leaves[blocks] = leaves


def known_blocks(layout: Layout, state: State, origins: Numbers) -> Blocks:
    """The blocks of a pack whose hashes a state tells. ``origins``: for each entry the one of the state that its
    content is taken from and that is still as it was left, -1: none.
    """
    out = Blocks.none(layout)
    old = state.layout
    if old.block_bytes != layout.block_bytes or not old.length or not layout.length:
        return out
    same = (origins >= 0) & (layout.sizes > 0) & (old.sizes[origins] == layout.sizes)
    for mine, theirs in (_large(layout, old, origins, same), _shared(layout, old, origins, same)):
        # the last block of a pack has no padding, all others have: the hash is not that of the same data elsewhere
        ends = (mine == layout.blocks - 1) != (theirs == old.blocks - 1)
        whole = ~ends | (_filled(layout, mine) == layout.block_bytes)
        out.put(mine[whole], state.leaves[theirs[whole]])
    return out


def _filled(layout: Layout, blocks: Numbers) -> Numbers:
    """Bytes of data in some blocks."""
    heads = blocks * layout.block_bytes
    begins = layout.starts[layout.order]
    last = layout.order[np.searchsorted(begins, heads + layout.block_bytes, "left") - 1]
    filled: Numbers = np.minimum(layout.starts[last] + layout.sizes[last] - heads, layout.block_bytes)
    return filled


def _large(layout: Layout, old: Layout, origins: Numbers, same: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Blocks of files that have blocks of their own, here and there."""
    size = layout.block_bytes
    entries = np.flatnonzero(same & (layout.sizes >= size))
    counts = -(-layout.sizes[entries] // size)
    ramp = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    mine = np.repeat(layout.starts[entries] // size, counts) + ramp
    theirs = np.repeat(old.starts[origins[entries]] // size, counts) + ramp
    return mine, theirs


def _shared(layout: Layout, old: Layout, origins: Numbers, same: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Shared blocks that hold the same files in the same places, here and there."""
    size = layout.block_bytes
    order = layout.order[layout.sizes[layout.order] < size]
    if not len(order):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    blocks, offsets = np.divmod(layout.starts[order], size)
    old_blocks, old_offsets = np.divmod(old.starts[origins[order]], size)
    firsts = np.flatnonzero(np.append(True, blocks[1:] != blocks[:-1]))
    counts = np.diff(np.append(firsts, len(order)))
    alike = same[order] & (offsets == old_offsets) & (old_blocks == np.repeat(old_blocks[firsts], counts))
    theirs = old_blocks[firsts]
    small = old.order[old.sizes[old.order] < size]
    held, held_counts = np.unique(old.starts[small] // size, return_counts=True)
    if not len(held):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(held, theirs), len(held) - 1)
    whole = np.logical_and.reduceat(alike, firsts) & (held[at] == theirs) & (held_counts[at] == counts)
    return blocks[firsts][whole], theirs[whole]


def readable_blocks(layout: Layout, sources: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
    """Which blocks of a pack could be made of what is here, and so are worth reading. ``sizes``: of what is here."""
    out = np.zeros(max(1, layout.blocks), bool)
    size = layout.block_bytes
    have = np.where(sources >= 0, sizes[sources], 0) if len(sizes) else np.zeros(len(sources), np.int64)
    large = np.flatnonzero((layout.sizes >= size) & (have > 0))
    firsts = layout.starts[large] // size
    counts = np.where(have[large] >= layout.sizes[large], -(-layout.sizes[large] // size), have[large] // size)
    changes = np.zeros(len(out) + 1, np.int64)
    np.add.at(changes, firsts, 1)
    np.add.at(changes, firsts + counts, -1)
    out |= np.cumsum(changes)[:-1] > 0
    small = np.flatnonzero((layout.sizes > 0) & (layout.sizes < size))
    blocks = layout.starts[small] // size
    out[blocks] = True
    out[blocks[have[small] != layout.sizes[small]]] = False
    return out
