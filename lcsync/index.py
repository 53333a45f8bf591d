# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share offers: files → trees, folders → lists, names → manifests; and the way back to the bytes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lcsync import files, listing, merkle
from lcsync.cache import TreeCache
from lcsync.const import INLINE_BYTES_MAX
from lcsync.errors import SourceError, UsageError
from lcsync.listing import Entry
from lcsync.manifest import Content, describe
from lcsync.merkle import Tree
from lcsync.paths import printable

Progress = Callable[[bytes, int, int], None]  # path, bytes done, bytes in all


@dataclass(eq=False)
class Item:
    """A shared name: ``version`` of the file or folder at ``path``; a folder's list of entries is ``data``."""

    name: bytes
    path: bytes
    tree: Tree
    kind: Content
    mode: int
    mtime_ns: int
    serial: int
    version: files.Version
    data: bytes | None
    changed: bool = False  # the file is no longer what its tree says

    @property
    def inline(self) -> bytes | None:
        """The content, if it is so short that it travels in the manifest."""
        return self.data if self.tree.length <= INLINE_BYTES_MAX else None

    def manifest(self, symbol_bytes: int) -> bytes:
        """The packet that describes the name."""
        return describe(self.tree, self.kind, symbol_bytes, self.mode, self.mtime_ns, self.serial, self.inline).encode()

    def looks_changed(self) -> bool:
        """Whether the file at the path is no longer the one that was hashed, or the folder has other names in it."""
        if not self.changed:
            try:
                self.changed = files.version_of(os.stat(self.path)) != self.version
            except OSError:
                self.changed = True
        return self.changed


class Index:
    """Names and what is behind them.

    What of a folder can't be read is said in ``skipped`` and does not stop the rest. ``before``
    is an older index of the same names, and ``cache`` the index on disk, from which unchanged files are taken.
    """

    def __init__(
        self,
        block_bytes: int,
        progress: Progress | None = None,
        before: Index | None = None,
        cache: TreeCache | None = None,
    ) -> None:
        self.block_bytes = block_bytes
        self.cache = cache or TreeCache(None)
        self.progress = progress
        self.items: list[Item] = []
        self.skipped: list[str] = []
        self.given: list[tuple[bytes, bytes]] = []
        self.missing: list[bytes] = []  # paths that were given and can't be read now
        self._names: set[bytes] = set()
        self._before = {item.name: item for item in before.items} if before else {}

    def add(self, name: bytes, path: bytes) -> None:
        """Share a file or a folder under ``name``. SourceError; UsageError if the name is taken."""
        self.given.append((name, path))
        if files.is_folder(path):
            self._folder(name, path)
        else:
            self._put(self._file(name, path))

    def _put(self, item: Item) -> None:
        if item.name in self._names:
            name, path = printable(item.name), printable(item.path)
            raise UsageError(reason=f"two paths under one name, {name}; give one another: OTHER={path}")
        self._names.add(item.name)
        self.items.append(item)

    def looks_changed(self) -> bool:
        """Whether anything that is shared changed, or a path that was missing is back."""
        return any([item.looks_changed() for item in self.items]) or any(map(os.path.lexists, self.missing))

    def again(self) -> Index:
        """A new index of the same names: changed files are hashed, the others keep their trees."""
        fresh = Index(self.block_bytes, self.progress, self, self.cache)
        for name, path in self.given:
            try:
                fresh.add(name, path)
            except (SourceError, UsageError) as error:
                fresh.missing.append(path)
                fresh.skipped.append(str(error))
        fresh._before = {}
        return fresh

    def _folder(self, name: bytes, path: bytes) -> list[Entry]:
        """Add all below a folder, then the list of it; returns the entries relative to it."""
        entries: list[Entry] = []
        with files.closing(files.open_folder(path, source=True)) as fd:
            names = files.names_in(fd)
            info = os.fstat(fd)
        for base in names:
            below, title = os.path.join(path, base), name + b"/" + base
            try:
                status = os.lstat(below)
                mode = status.st_mode
                if stat.S_ISDIR(mode):
                    for e in self._folder(title, below):
                        entries.append(Entry(base + b"/" + e.path, e.length, e.mode, e.mtime_ns, e.top, e.inline))
                elif stat.S_ISREG(mode):
                    item = self._file(title, below, status)
                    self._put(item)
                    top = item.tree.nodes[-1].tobytes()
                    entries.append(Entry(base, item.tree.length, item.mode, item.mtime_ns, top, item.inline))
                else:
                    self.skipped.append(f"{printable(below)}: is a {files.kind_of(mode)}, not shared")
            except SourceError as error:
                self.skipped.append(str(error))
            except OSError as error:
                self.skipped.append(f"{printable(below)}: {(error.strerror or str(error)).lower()}")
            except RecursionError:
                self.skipped.append(f"{printable(below)}: too many folders in each other")
        data = listing.encode(entries)
        tree = Tree(len(data), self.block_bytes, merkle.hash_leaves(data, self.block_bytes))
        mode, mtime_ns = stat.S_IMODE(info.st_mode), max(0, info.st_mtime_ns)
        old = self._before.get(name)
        serial = old.serial if old and old.tree.root == tree.root else self._serial(old)
        self._put(Item(name, path, tree, Content.LIST, mode, mtime_ns, serial, files.version_of(info), data))
        return entries

    def _file(self, name: bytes, path: bytes, status: os.stat_result | None = None) -> Item:
        old = self._before.get(name)
        if old and old.kind is Content.FILE and old.path == path and not old.looks_changed():
            return old
        try:
            return self._known(name, path, old, status) or self._read(name, path, old)
        except SourceError:
            if old is None or old.kind is not Content.FILE or not os.path.lexists(path):
                raise
            old.changed = True  # being written to just now: stays unsent, and is read again later
            return old

    def _known(self, name: bytes, path: bytes, old: Item | None, status: os.stat_result | None) -> Item | None:
        """A file that the index on disk knows is not even opened."""
        with suppress(OSError):
            info = status or os.stat(path)
            if stat.S_ISREG(info.st_mode) and (known := self.cache.get(files.version_of(info), self.block_bytes)):
                return self._item(name, path, known.tree, info, known.inline, old)
        return None

    def _read(self, name: bytes, path: bytes, old: Item | None) -> Item:
        looked_ns = time.time_ns()
        with files.closing(files.open_source(path)) as fd:
            info = os.fstat(fd)
            seen = files.version_of(info)

            def report(done: int) -> None:
                if self.progress:
                    self.progress(path, done, seen.length)

            tree = files.read_block_hashes(fd, seen.length, self.block_bytes, report)
            data = os.pread(fd, INLINE_BYTES_MAX, 0) if seen.length <= INLINE_BYTES_MAX else None
        if data is not None and merkle.hash_leaves(data, self.block_bytes).tobytes() != tree.leaves.tobytes():
            raise SourceError(path=printable(path), reason="changed while it was read; run again")
        self.cache.put(seen, tree, data, looked_ns)
        return self._item(name, path, tree, info, data, old)

    def _item(
        self, name: bytes, path: bytes, tree: Tree, info: os.stat_result, data: bytes | None, old: Item | None
    ) -> Item:
        mode, mtime_ns = stat.S_IMODE(info.st_mode), max(0, info.st_mtime_ns)
        seen = files.version_of(info)
        return Item(name, path, tree, Content.FILE, mode, mtime_ns, self._serial(old), seen, data)

    @staticmethod
    def _serial(old: Item | None) -> int:
        """Never falls, for this process; nor across its restarts, while the clock does not."""
        return max(time.time_ns(), old.serial + 1 if old else 0)
