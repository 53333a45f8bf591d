# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share offers: files → trees, folders → lists, names → manifests; and the way back to the bytes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from lcsync import files, listing, merkle
from lcsync.cache import Known, TreeCache
from lcsync.const import FOLDERS_DEEP_MAX, INLINE_BYTES_MAX, MTIME_NS_MAX
from lcsync.errors import SourceError, UsageError
from lcsync.listing import Row
from lcsync.manifest import Content, describe
from lcsync.merkle import Tree
from lcsync.paths import printable

Progress = Callable[[bytes, int, int], None]  # path, bytes done, bytes in all


@dataclass(eq=False, slots=True)
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

    def manifest(self, symbol_bytes: int, spare: int = 0) -> bytes:
        """The packet that describes the name, with ``spare`` bytes left for a signature."""
        return describe(
            self.tree, self.kind, symbol_bytes, self.mode, self.mtime_ns, self.serial, self.inline, spare
        ).encode()

    def is_still(self, path: bytes, version: files.Version) -> bool:
        """Whether this is the file that has this version now, with the content that was hashed."""
        return self.kind is Content.FILE and self.path == path and not self.changed and self.version == version

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
            self._put(self._one(name, path))

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

    def _folder(self, name: bytes, path: bytes, depth: int = 1) -> list[Row]:
        """Add all below a folder, then the list of it; returns its rows, but with whole names."""
        with files.closing(files.open_folder(path, source=True)) as fd:
            found = files.statuses_in(fd)
            info = os.fstat(fd)
        path_head, name_head = os.path.join(path, b""), name + b"/"
        rows = self._files(name_head, path_head, found)
        for base, status in found:
            below = path_head + base
            if isinstance(status, OSError):
                self.skipped.append(_why(below, status))
            elif stat.S_ISDIR(status.st_mode) and depth == FOLDERS_DEEP_MAX:
                self.skipped.append(f"{printable(below)}: too many folders in each other, not shared")
            elif stat.S_ISDIR(status.st_mode):
                try:
                    rows += self._folder(name_head + base, below, depth + 1)
                except SourceError as error:
                    self.skipped.append(str(error))
                except OSError as error:
                    self.skipped.append(_why(below, error))
            elif not stat.S_ISREG(status.st_mode):
                self.skipped.append(f"{printable(below)}: is a {files.kind_of(status.st_mode)}, not shared")
        cut = len(name_head)
        data = listing.encode_rows([(row[0][cut:], *row[1:]) for row in rows])
        tree = Tree(len(data), self.block_bytes, merkle.hash_leaves(data, self.block_bytes))
        mode, mtime_ns = stat.S_IMODE(info.st_mode), _mtime_ns(info)
        old = self._before.get(name)
        serial = old.serial if old and old.tree.root == tree.root else self._serial(old)
        self._put(Item(name, path, tree, Content.LIST, mode, mtime_ns, serial, files.version_of(info), data))
        return rows

    def _files(self, name_head: bytes, path_head: bytes, found: files.Statuses) -> list[Row]:
        """Add the files right in a folder; returns their rows, with whole names."""
        here = [
            (name_head + base, path_head + base, status, files.version_of(status))
            for base, status in found
            if not isinstance(status, OSError) and stat.S_ISREG(status.st_mode)
        ]
        rows: list[Row] = []
        known = self._known([(name, path, seen) for name, path, _, seen in here])
        for (name, path, status, seen), entry in zip(here, known, strict=True):
            try:
                item = self._file(name, path, status, seen, entry)
            except SourceError as error:
                self.skipped.append(str(error))
            except OSError as error:
                self.skipped.append(_why(path, error))
            else:
                self._put(item)
                tree, content = item.tree, item.inline
                rows.append((name, tree.length, item.mode, item.mtime_ns, tree.top if content is None else content))
        return rows

    def _known(self, asked: list[tuple[bytes, bytes, files.Version]]) -> list[Known | None]:
        """What the index on disk has of files of a name, path and version; None for those that are as before, too."""
        if not self._before:
            return self.cache.get_many([seen for _, _, seen in asked], self.block_bytes)
        news = [i for i, (name, path, seen) in enumerate(asked) if not self._is_still(name, path, seen)]
        known: list[Known | None] = [None] * len(asked)
        for i, entry in zip(news, self.cache.get_many([asked[i][2] for i in news], self.block_bytes), strict=True):
            known[i] = entry
        return known

    def _is_still(self, name: bytes, path: bytes, seen: files.Version) -> bool:
        old = self._before.get(name)
        return old is not None and old.is_still(path, seen)

    def _one(self, name: bytes, path: bytes) -> Item:
        """The item of a file that was given by itself."""
        try:
            status = files.source_status(path)
        except SourceError as error:
            return self._still_there(path, self._before.get(name), error)
        seen = files.version_of(status)
        return self._file(name, path, status, seen, *self._known([(name, path, seen)]))

    def _file(self, name: bytes, path: bytes, status: os.stat_result, seen: files.Version, known: Known | None) -> Item:
        """The item of a file. One that is ``known`` to the index on disk is not even opened."""
        old = self._before.get(name)
        if old and old.is_still(path, seen):
            return old
        if known and not (old and old.changed and old.version == seen):  # else its content is another all the same
            return self._item(name, path, known.tree, status, seen, known.inline, old)
        try:
            return self._read(name, path, old)
        except SourceError as error:
            return self._still_there(path, old, error)

    @staticmethod
    def _still_there(path: bytes, old: Item | None, error: SourceError) -> Item:
        """A file that is being written to just now: the old item, unsent until the file is read again."""
        if old is None or old.kind is not Content.FILE or not os.path.lexists(path):
            raise error
        old.changed = True
        return old

    def _read(self, name: bytes, path: bytes, old: Item | None) -> Item:
        looked_ns = time.time_ns()
        with files.closing(files.open_source(path)) as fd:
            info = os.fstat(fd)
            seen = files.version_of(info)

            def report(done: int) -> None:
                if self.progress:
                    self.progress(path, done, seen.length)

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
        old: Item | None,
    ) -> Item:
        mode, mtime_ns = stat.S_IMODE(info.st_mode), _mtime_ns(info)
        return Item(name, path, tree, Content.FILE, mode, mtime_ns, self._serial(old), seen, data)

    @staticmethod
    def _serial(old: Item | None) -> int:
        """Never falls, for this process; nor across its restarts, while the clock does not."""
        return max(time.time_ns(), old.serial + 1 if old else 0)


def _mtime_ns(info: os.stat_result) -> int:
    """As far as a manifest can say it: from 1970 to 2262."""
    return min(max(0, info.st_mtime_ns), MTIME_NS_MAX)


def _why(path: bytes, error: OSError) -> str:
    return f"{printable(path)}: {(error.strerror or str(error)).lower()}"
