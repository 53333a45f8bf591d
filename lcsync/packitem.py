# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A folder that is shared: its pack under a name, its manifest, and the two objects that go on the wire."""

from __future__ import annotations

import os
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from lcsync import files
from lcsync.const import INLINE_BYTES_MAX, MTIME_NS_MAX, SEGMENT_BYTES
from lcsync.entries import Kind
from lcsync.errors import SourceError
from lcsync.manifest import Content, describe, describe_pack
from lcsync.merkle import Tree
from lcsync.packing import Pack
from lcsync.paths import printable
from lcsync.segments import OpenFiles, Source
from lcsync.singles import FileNames

FILES = (Kind.FILE, Kind.HARDLINK)  # what has a name of its own


@dataclass(eq=False)
class PackItem:
    """A shared name: the folder at ``path`` as it was when it was made a ``pack``.

    ``wrong``: entries that were found to have another content than their blocks say, whatever their times are.
    """

    name: bytes
    path: bytes
    pack: Pack
    serial: int
    version: files.Version  # of the folder itself
    changed: bool = False  # something is no longer what the trees say
    wrong: set[bytes] = field(default_factory=set)
    kept: bool = False  # in the index on disk

    @property
    def kind(self) -> Content:
        return Content.PACK

    @property
    def root(self) -> bytes:
        return self.pack.root

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return int(self.pack.layout.sizes.sum())

    def entry_of(self, name: bytes) -> int:
        """The entry of the file that has this name, -1: none."""
        path = name.removeprefix(self.name + b"/")
        paths = self.pack.entries.paths
        at = bisect_left(paths, path)
        there = path != name and at < len(paths) and paths[at] == path and self.pack.entries.kinds[at] in FILES
        return at if there else -1

    def names(self, key: bytes = b"") -> FileNames:
        """The names of all files in the folder, in groups that hang on a share ``key``."""
        entries = self.pack.entries
        return FileNames(self.name, entries.paths, np.flatnonzero(np.isin(entries.kinds, FILES)), key)

    def single(self, entry: int, opened: OpenFiles) -> PackedFile:
        """A file of the folder by itself. OSError, SourceError."""
        pack, entries = self.pack, self.pack.entries
        if entries.kinds[entry] == Kind.HARDLINK:
            entry = self.entry_of(self.name + b"/" + entries.links[entry])
        if entry < 0:
            raise SourceError(path=printable(self.path), reason="the other name of a link, not of a file")
        tree, tail = pack.single(opened.contents(pack), entry)
        return PackedFile(self, entry, tree, tail if tree.length <= INLINE_BYTES_MAX else None)

    def manifest(self, symbol_bytes: int, spare: int = 0) -> bytes:
        """The packet that describes the name, with ``spare`` bytes left for a signature."""
        pack = self.pack
        mode, mtime_ns = self.attributes(0)
        return describe_pack(
            pack.list_tree, pack.tree, symbol_bytes, mode, mtime_ns, self.serial, pack.data, spare
        ).encode()  # fmt: skip

    def attributes(self, entry: int) -> tuple[int, int]:
        """Mode and time of an entry, as far as a manifest can say them."""
        entries = self.pack.entries
        assert entries.modes is not None and entries.mtimes_ns is not None
        return int(entries.modes[entry]), min(max(0, int(entries.mtimes_ns[entry])), MTIME_NS_MAX)

    def sources(self) -> list[Source]:
        """What has groups of its own: the entry list and the content."""
        return [_EntryList(self.pack), _Content(self)]

    def seems_changed(self) -> bool:
        """The same as `looks_changed` by the folder alone: to look at all that is in it takes too long for a packet."""
        self.changed = self.changed or files.is_other(self.path, self.version)
        return self.changed

    def looks_changed(self) -> bool:
        """Whether anything in the folder is other than it was."""
        self.changed = self.seems_changed() or self.pack.looks_changed()
        return self.changed


@dataclass(eq=False)
class _EntryList:
    pack: Pack

    @property
    def tree(self) -> Tree:
        return self.pack.list_tree

    @property
    def data(self) -> bytes:
        return self.pack.data

    def read(self, opened: OpenFiles, view: memoryview, start: int) -> int:
        raise AssertionError("it is in memory")

    def spoil(self, segment: int) -> None:
        raise AssertionError("it is in memory")


@dataclass(eq=False)
class _Content:
    item: PackItem
    data: None = None

    @property
    def tree(self) -> Tree:
        return self.item.pack.tree

    def read(self, opened: OpenFiles, view: memoryview, start: int) -> int:
        return 0 if opened.contents(self.item.pack).fill(view, start) else len(view)

    def spoil(self, segment: int) -> None:
        """Other bytes than were hashed: what is in the segment is not believed to be as it was, whatever its times."""
        item = self.item
        item.changed = True
        entries = item.pack.layout.between(segment * SEGMENT_BYTES, SEGMENT_BYTES).tolist()
        item.wrong.update(item.pack.entries.paths[entry] for entry in entries)


@dataclass(eq=False)
class PackedFile:
    """A file of a pack by itself; ``data``: the content, if it is short."""

    item: PackItem
    entry: int
    tree: Tree
    data: bytes | None

    def manifest(self, symbol_bytes: int, spare: int = 0) -> bytes | None:
        """The packet that describes its name, with ``spare`` bytes left for a signature.

        None if it is not as it was.
        """
        item, pack = self.item, self.item.pack
        try:
            now = files.version_of(os.lstat(os.path.join(item.path, pack.entries.paths[self.entry])))
            item.changed = item.changed or now != files.Version(*pack.versions[self.entry].tolist())
        except OSError:
            item.changed = True
        if item.changed:
            return None
        mode, mtime_ns = item.attributes(self.entry)
        return describe(
            self.tree, Content.FILE, symbol_bytes, mode, mtime_ns, item.serial, self.data, spare
        ).encode()

    def read(self, opened: OpenFiles, view: memoryview, start: int) -> int:
        return opened.contents(self.item.pack).read(self.entry, view, start)

    def spoil(self, segment: int) -> None:
        self.item.changed = True
        self.item.wrong.add(self.item.pack.entries.paths[self.entry])
