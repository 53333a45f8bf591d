# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share offers: files → trees, folders → packs, names → manifests; and the way back to the bytes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from lcsync import files, merkle, packing
from lcsync.cache import Known, TreeCache
from lcsync.columns import ColumnError
from lcsync.const import INLINE_BYTES_MAX, MTIME_NS_MAX
from lcsync.errors import SourceError, UsageError
from lcsync.manifest import Content, describe
from lcsync.merkle import Tree
from lcsync.packing import ALL, What
from lcsync.packitem import PackItem
from lcsync.paths import printable
from lcsync.reuse import State
from lcsync.segments import OpenFiles, Source

Progress = Callable[[bytes, int], None]  # path, bytes done


@dataclass(eq=False, slots=True)
class Item:
    """A shared file: ``version`` of what is at ``path``; the content is ``data``, if it is short."""

    name: bytes
    path: bytes
    tree: Tree
    mode: int
    mtime_ns: int
    serial: int
    version: files.Version
    data: bytes | None
    changed: bool = False  # the file is no longer what its tree says

    @property
    def kind(self) -> Content:
        return Content.FILE

    @property
    def root(self) -> bytes:
        return self.tree.root

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.tree.length

    def manifest(self, symbol_bytes: int, spare: int = 0) -> bytes:
        """The packet that describes the name, with ``spare`` bytes left for a signature."""
        return describe(
            self.tree, self.kind, symbol_bytes, self.mode, self.mtime_ns, self.serial, self.data, spare
        ).encode()

    def sources(self) -> list[Source]:
        """What has groups of its own: nothing if the content travels in the manifest."""
        return [self] if self.data is None else []

    def read(self, opened: OpenFiles, view: memoryview, start: int) -> int:
        return os.preadv(opened.file(self.path, self.version), [view], start)

    def spoil(self, segment: int) -> None:
        self.changed = True

    def is_still(self, path: bytes, version: files.Version) -> bool:
        """Whether this is the file that has this version now, with the content that was hashed."""
        return self.path == path and not self.changed and self.version == version

    def seems_changed(self) -> bool:
        """The same as `looks_changed`: of a file that is known at once."""
        return self.looks_changed()

    def looks_changed(self) -> bool:
        """Whether the file at the path is no longer the one that was hashed."""
        self.changed = self.changed or files.is_other(self.path, self.version)
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
        what: What = ALL,
    ) -> None:
        self.block_bytes = block_bytes
        self.cache = cache or TreeCache(None)
        self.progress = progress
        self.what = what
        self.items: list[Item | PackItem] = []
        self.skipped: list[str] = []
        self.given: list[tuple[bytes, bytes]] = []
        self.missing: list[bytes] = []  # paths that were given and can't be read now
        self._names: set[bytes] = set()
        self._before = {item.name: item for item in before.items} if before else {}

    def add(self, name: bytes, path: bytes) -> None:
        """Share a file or a folder under ``name``. SourceError; UsageError if the name is taken."""
        self.given.append((name, path))
        self._put(self._folder(name, path) if files.is_folder(path) else self._one(name, path))

    def _put(self, item: Item | PackItem) -> None:
        packs = [other for other in self.items if isinstance(other, PackItem)]
        taken = item.name in self._names or any(pack.entry_of(item.name) >= 0 for pack in packs)
        if taken or (isinstance(item, PackItem) and any(item.entry_of(name) >= 0 for name in self._names)):
            name, path = printable(item.name), printable(item.path)
            raise UsageError(reason=f"two paths under one name, {name}; give one another: OTHER={path}")
        self._names.add(item.name)
        self.items.append(item)

    def looks_changed(self) -> bool:
        """Whether anything that is shared changed, or a path that was missing is back."""
        return any([item.looks_changed() for item in self.items]) or any(map(os.path.lexists, self.missing))

    def again(self) -> Index:
        """A new index of the same names, once `looks_changed`: what changed is hashed, the rest keeps its trees."""
        fresh = Index(self.block_bytes, self.progress, self, self.cache, self.what)
        for name, path in self.given:
            try:
                fresh.add(name, path)
            except (SourceError, UsageError) as error:
                fresh.missing.append(path)
                fresh.skipped.append(str(error))
        fresh._before = {}
        return fresh

    def keep(self) -> None:
        """Write to the index on disk what is not there yet."""
        for item in self.items:
            if isinstance(item, PackItem) and not item.kept:
                item.kept = True
                data = item.pack.state().to_bytes()
                self.cache.put_folder(item.version.device, item.version.inode, self.block_bytes, data)
        self.cache.flush()

    def _folder(self, name: bytes, path: bytes) -> PackItem:
        old = self._before.get(name)
        old_pack = old if isinstance(old, PackItem) and old.path == path else None
        if old_pack and not old_pack.changed:
            self.skipped += _below(path, old_pack.pack.skipped)
            return old_pack
        with files.closing(files.open_folder(path, source=True)) as fd:
            seen = files.version(fd)
            state = old_pack.pack.state() if old_pack else self._kept_of(seen)
            report = partial(self.progress, path) if self.progress else None
            wrong = old_pack.wrong if old_pack else frozenset()
            made = packing.pack(path, fd, self.block_bytes, self.what, state, self.cache, report, wrong)
        self.skipped += _below(path, made.skipped)
        serial = old.serial if old and old.root == made.root else self._serial(old)
        return PackItem(name, path, made, serial, seen, kept=made.is_state_of(state))

    def _kept_of(self, folder: files.Version) -> State | None:
        """What the index on disk knows of a folder."""
        data = self.cache.folder(folder.device, folder.inode, self.block_bytes)
        with suppress(ColumnError, ValueError):
            return State.from_bytes(data) if data is not None else None
        return None

    def _one(self, name: bytes, path: bytes) -> Item:
        """The item of a file that was given by itself."""
        try:
            status = files.source_status(path)
        except SourceError as error:
            return self._still_there(path, self._before.get(name), error)
        seen = files.version_of(status)
        old = self._before.get(name)
        if isinstance(old, Item) and old.is_still(path, seen):
            return old
        known = self._known(old, seen)
        if known:  # it is not even opened
            return self._item(name, path, known.tree, status, seen, known.inline, old)
        try:
            return self._read(name, path, old)
        except SourceError as error:
            return self._still_there(path, old, error)

    def _known(self, old: Item | PackItem | None, seen: files.Version) -> Known | None:
        """What the index on disk has of a file, unless its content turned out to be another."""
        if old and old.changed and old.version == seen:
            return None
        return self.cache.get(seen, self.block_bytes)

    @staticmethod
    def _still_there(path: bytes, old: Item | PackItem | None, error: SourceError) -> Item:
        """A file that is being written to just now: the old item, unsent until the file is read again."""
        if not isinstance(old, Item) or not os.path.lexists(path):
            raise error
        old.changed = True
        return old

    def _read(self, name: bytes, path: bytes, old: Item | PackItem | None) -> Item:
        looked_ns = time.time_ns()
        with files.closing(files.open_source(path)) as fd:
            info = os.fstat(fd)
            seen = files.version_of(info)

            def report(done: int) -> None:
                if self.progress:
                    self.progress(path, done)

            tree = files.read_block_hashes(fd, seen.length, self.block_bytes, report)
            data = files.read_start(fd, INLINE_BYTES_MAX) if seen.length <= INLINE_BYTES_MAX else None
        if data is not None and merkle.hash_leaves(data, self.block_bytes).tobytes() != tree.leaves.tobytes():
            raise SourceError(path=printable(path), reason="changed while it was read; run again")
        self.cache.put(seen, tree, data, looked_ns)
        return self._item(name, path, tree, info, seen, data, old)

    def _item(
        self,
        name: bytes,
        path: bytes,
        tree: Tree,
        info: os.stat_result,
        seen: files.Version,
        data: bytes | None,
        old: Item | PackItem | None,
    ) -> Item:
        mode, mtime_ns = stat.S_IMODE(info.st_mode), _mtime_ns(info)
        return Item(name, path, tree, mode, mtime_ns, self._serial(old), seen, data)

    @staticmethod
    def _serial(old: Item | PackItem | None) -> int:
        """Never falls, for this process; nor across its restarts, while the clock does not."""
        return max(time.time_ns(), old.serial + 1 if old else 0)


def _mtime_ns(info: os.stat_result) -> int:
    """As far as a manifest can say it: from 1970 to 2262."""
    return min(max(0, info.st_mtime_ns), MTIME_NS_MAX)


def _below(folder: bytes, lines: list[str]) -> list[str]:
    """What is said of paths in a folder, with the folder."""
    return [f"{printable(folder)}/{line}" for line in lines]
