# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A folder made a pack: its entry list, its layout, the hashes of its content; and the way back to the bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lcsync import files
from lcsync.attributes import Keep
from lcsync.cache import TreeCache, settled_many
from lcsync.const import (
    ENTRIES_MAX,
    LIST_BLOCK_BYTES,
    LIST_BYTES_MAX,
    NAME_BYTES_MAX,
    PATHS_BYTES_MAX,
)
from lcsync.contents import SOURCE_FLAGS, Contents, blocks_from_cache, hash_contents
from lcsync.entries import DEVICES, Entries, Kind, encode
from lcsync.errors import SourceError
from lcsync.files import FOLDER_FLAGS, Version
from lcsync.filters import NO_RULES, Rules
from lcsync.leftovers import temporaries
from lcsync.merkle import Tree, hash_leaves
from lcsync.pack import Layout, Numbers, PackError, lay_out, pack_root
from lcsync.packmeta import name_owners, read_xattrs
from lcsync.paths import printable
from lcsync.reuse import Blocks, State, is_as_left, known_blocks, numbers_of
from lcsync.scan import DEVICE, GID, INODE, KIND, LINKS, MODE, MTIME, RDEV, SIZE, UID, Folders, Scan, scan


@dataclass(frozen=True)
class What:
    """What of a folder is shared besides all that is in a status, links and devices: a receiver takes what it wants."""

    acls: bool = False
    xattrs: bool = False
    rules: Rules = NO_RULES  # for paths below the folder


ALL = What()


def entries_of(
    found: Scan, read_link: Callable[[bytes], bytes], drop: Collection[bytes] = ()
) -> tuple[Entries, Numbers]:
    """The entries of what was found, without the paths to ``drop``, and for each its row. ``read_link``: OSError."""
    kinds = found.column(KIND).copy()
    keep = np.ones(len(kinds), bool)
    links: dict[int, bytes] = {}
    for row in np.flatnonzero(kinds == Kind.SYMLINK).tolist():
        try:
            links[row] = read_link(found.paths[row])
        except OSError:
            links[row] = b""
        keep[row] = bool(links[row])
    if drop:
        keep &= np.fromiter((path not in drop for path in found.paths), bool, len(kinds))
    firsts: dict[tuple[int, int], bytes] = {}
    for row in np.flatnonzero((kinds != Kind.FOLDER) & keep & (found.column(LINKS) > 1)).tolist():
        inode = int(found.rows[row, DEVICE]), int(found.rows[row, INODE])
        first = firsts.setdefault(inode, found.paths[row])
        if first != found.paths[row]:
            kinds[row] = Kind.HARDLINK
            links[row] = first
    rows = np.flatnonzero(keep)
    numbers = {row: entry for entry, row in enumerate(rows.tolist())}
    table = found.rows[rows]
    devices = {numbers[row]: _device(int(found.rows[row, RDEV])) for row in np.flatnonzero(
        keep & np.isin(kinds, DEVICES)).tolist()}  # fmt: skip
    entries = Entries(
        [found.paths[row] for row in rows.tolist()],
        kinds[rows].astype(np.uint8),
        np.where(kinds[rows] == Kind.FILE, table[:, SIZE], 0),
        {numbers[row]: target for row, target in links.items() if row in numbers},
        devices,
        table[:, MODE].astype(np.uint16),
        table[:, MTIME].copy(),
        table[:, UID].astype(np.uint32),
        table[:, GID].astype(np.uint32),
    )
    return entries, rows


def _device(rdev: int) -> tuple[int, int]:
    return os.major(rdev), os.minor(rdev)


@dataclass(eq=False)
class Pack:
    """A folder that is shared. ``rows``: for each entry that of ``found``; ``data``: the entry list, encoded."""

    path: bytes
    found: Scan
    rows: Numbers = field(repr=False)
    entries: Entries = field(repr=False)
    layout: Layout = field(repr=False)
    data: bytes = field(repr=False)
    tree: Tree = field(repr=False)
    list_tree: Tree = field(repr=False)
    looked_ns: int
    how: bytes
    skipped: list[str]

    @cached_property
    def root(self) -> bytes:
        return pack_root(self.list_tree.root, self.tree.root)

    @cached_property
    def versions(self) -> Numbers:
        """Of each entry, as it was found."""
        return self.found.versions[self.rows]

    def open(self) -> Contents:
        """The content, to be read. OSError."""
        with files.closing(os.open(self.path, FOLDER_FLAGS)) as fd:
            return Contents(fd, self.entries.paths, self.layout)

    def is_state_of(self, state: State | None) -> bool:
        """Whether a state tells all that this one would."""
        return (
            state is not None
            and state.data == self.data
            and _tells_all(state, self.how, self.entries, self.layout, self.versions)
            and np.array_equal(state.leaves, self.tree.leaves)
        )

    def state(self) -> State:
        """What to keep of it: versions that a change at the time of the look might share are left out."""
        versions = self.versions.copy()
        versions[~settled_many(versions, self.looked_ns)] = 0
        block_bytes, paths = self.layout.block_bytes, self.entries.paths
        return State(self.root, self.how, block_bytes, paths, versions, self.data, self.tree.leaves)

    def looks_changed(self) -> bool:
        """Whether anything in the folder is other than it was."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            now = scan(fd)
        finally:
            os.close(fd)
        return now.paths != self.found.paths or not np.array_equal(now.versions, self.found.versions)

    def single(self, contents: Contents, entry: int) -> tuple[Tree, bytes]:
        """The tree of one file, for its own name: most of it is known; and the bytes after its last whole block.

        SourceError.
        """
        size, length = self.layout.block_bytes, int(self.layout.sizes[entry])
        first, whole = int(self.layout.starts[entry]) // size, length // size
        tail = bytearray(length - whole * size)
        try:
            done = contents.read(entry, memoryview(tail), whole * size) if tail else 0
        except OSError:
            done = -1
        if done != len(tail):
            raise SourceError(path=printable(self.entries.paths[entry]), reason="changed; run again")
        leaves = self.tree.leaves[first : first + whole]
        if tail or not length:
            leaves = np.concatenate([leaves, hash_leaves(tail, size)])
        return Tree(length, size, leaves), bytes(tail)


def pack(
    path: bytes,
    root_fd: int,
    block_bytes: int,
    what: What = ALL,
    state: State | None = None,
    cache: TreeCache | None = None,
    progress: Callable[[int], None] | None = None,
    wrong: Collection[bytes] = (),
) -> Pack:
    """Make the folder open as ``root_fd`` a pack. What a ``state`` or the index on disk knows is not read, but of the
    paths that are known to be ``wrong``.

    What can't be read is left out, and said in ``skipped``. SourceError if it is too large for one object.
    """
    looked_ns = time.time_ns()
    found = scan(root_fd)
    skipped = list(found.skipped)
    drop = {each for each in found.paths if len(each) > NAME_BYTES_MAX}
    if drop:
        skipped.append(f"{len(drop)} paths of more than {NAME_BYTES_MAX} bytes, not shared")
    drop |= {found.paths[row] for row in temporaries(found).tolist() if found.rows[row, KIND] == Kind.FILE}
    folders_too = (found.column(KIND) == Kind.FOLDER).tolist()
    drop |= what.rules.left_out(zip(found.paths[1:], folders_too[1:], strict=True))[0]
    with Folders(root_fd) as folders:

        def read_link(name: bytes) -> bytes:
            above, base = folders.above(name)
            return os.readlink(base, dir_fd=above)

        while True:
            entries, rows = entries_of(found, read_link, drop)
            name_owners(entries)
            layout = _laid_out(path, entries, block_bytes)
            versions = found.versions[rows]
            how = _how(what, entries)
            if state is not None and not wrong and _tells_all(state, how, entries, layout, versions):
                data, leaves = state.data, state.leaves
                break
            trusted = entries.kinds == Kind.FILE
            doubtful = numbers_of(list(wrong), entries.paths)
            trusted[doubtful[doubtful >= 0]] = False
            leaves, lacking = _leaves(root_fd, entries, layout, versions, trusted, state, cache, progress)
            if not lacking:
                if what.acls or what.xattrs:
                    skipped += read_xattrs(entries, folders, Keep(acls=what.acls, xattrs=what.xattrs))
                data = encode(entries)
                break
            for entry in sorted(lacking):
                drop.add(entries.paths[entry])
                skipped.append(f"{printable(entries.paths[entry])}: {_why(folders, entries.paths[entry])}")
            versions[sorted(lacking)] = 0
            state, wrong = State(b"", b"", block_bytes, entries.paths, versions, encode(entries), leaves), ()
    if len(data) > LIST_BYTES_MAX:
        raise _too_large(path, f"the list of what is in it has more than {LIST_BYTES_MAX >> 20} MiB")
    tree = Tree(layout.length, block_bytes, leaves)
    list_tree = Tree(len(data), LIST_BLOCK_BYTES, hash_leaves(data, LIST_BLOCK_BYTES))
    return Pack(path, found, rows, entries, layout, data, tree, list_tree, looked_ns, how, skipped)


def _how(what: What, entries: Entries) -> bytes:
    """What hangs on more than the versions of what is in a folder: equal, and the list is equal."""
    return b"share " + repr((what, sorted(entries.users.items()), sorted(entries.groups.items()))).encode()


def _tells_all(state: State, how: bytes, entries: Entries, layout: Layout, versions: Numbers) -> bool:
    """Whether a state is that of just this folder as it is: neither list nor content have to be made again."""
    return (
        state.how == how
        and state.block_bytes == layout.block_bytes
        and state.paths == entries.paths
        and np.array_equal(state.versions, versions)
        and len(state.leaves) == max(1, layout.blocks)
    )


def _laid_out(path: bytes, entries: Entries, block_bytes: int) -> Layout:
    """The layout of what a receiver would take; SourceError."""
    if len(entries) > ENTRIES_MAX:
        raise _too_large(path, f"more than {ENTRIES_MAX} files and folders")
    if sum(map(len, entries.paths)) > PATHS_BYTES_MAX:
        raise _too_large(path, f"more than {PATHS_BYTES_MAX >> 20} MiB of paths")
    try:
        return lay_out(entries.paths, entries.sizes, block_bytes)
    except PackError as error:
        raise _too_large(path, str(error)) from None


def _too_large(path: bytes, reason: str) -> SourceError:
    return SourceError(path=printable(path), reason=f"{reason}; share the folders in it one by one")


def _why(folders: Folders, path: bytes) -> str:
    """Why a file could not be read as it was found."""
    try:
        above, name = folders.above(path)
        os.close(os.open(name, SOURCE_FLAGS, dir_fd=above))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "changed while it was read; run again"


def _leaves(
    root_fd: int,
    entries: Entries,
    layout: Layout,
    versions: Numbers,
    trusted: NDArray[np.bool_],
    state: State | None,
    cache: TreeCache | None,
    progress: Callable[[int], None] | None,
) -> tuple[NDArray[np.uint8], set[int]]:
    if state is not None and state.block_bytes == layout.block_bytes and state.is_sound():
        same = is_as_left(state, entries.paths, versions)
        origins = numbers_of(entries.paths, state.paths)
        origins[(origins >= 0) & ~(same[origins] & trusted)] = -1
        blocks = known_blocks(layout, state, origins)
    else:
        blocks = Blocks.none(layout)
    if cache is not None and not blocks.known.all():
        known = [Version(*row) if fine else None for row, fine in zip(versions.tolist(), trusted.tolist(), strict=True)]
        blocks_from_cache(cache, layout, blocks, known)
    lacking = hash_contents(root_fd, list(entries.paths), layout, blocks, np.ones(len(blocks.known), bool), progress)
    return blocks.leaves, lacking
