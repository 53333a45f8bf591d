# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""One regular file is made equal to another: the two are compared, and the blocks that differ are copied."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcsync import attributes, copying, files
from lcsync.attributes import Entry
from lcsync.cache import TreeCache
from lcsync.compare import Write, differing_runs, tree_runs
from lcsync.const import COPY_BYTES, READ_BYTES, STEP_BYTES
from lcsync.errors import DestinationError, SourceError
from lcsync.folders import Folder, identity
from lcsync.job import Options, Report
from lcsync.merkle import Tree
from lcsync.oserrors import destination_errors, fd_name
from lcsync.paths import printable


@dataclass(frozen=True)
class Source:
    """A file to copy: its status, its path below the top, and how to open it."""

    info: os.stat_result
    path: bytes
    open: Callable[[], int]


@dataclass
class Updater:
    """Makes files equal; ``progress`` gets the bytes of the present one that are done."""

    options: Options
    report: Report
    cache: TreeCache
    progress: Callable[[int], None]

    def update(
        self,
        source: Source,
        folder: Folder | None,
        name: bytes,
        here: os.stat_result | None,
        shown: str,
        *,
        anything: bool,
    ) -> None:
        """Make what has ``name`` in ``folder`` (None: one that a dry run would make) equal to ``source``.

        ``here`` is the status of what has that name; with ``anything``, a link, fifo, socket or device may be replaced.
        SourceError, DestinationError, DiskFull.
        """
        summary = self.report.summary
        summary.files_compared += 1
        summary.bytes_compared += source.info.st_size
        if folder is None or here is None:
            with files.closing(source.open()) as src_fd:
                self._write_new(source, src_fd, folder, name, shown)
        elif identity(here) == identity(source.info):
            summary.files_unread += 1
            self.report.say(2, shown, "equal")
        elif self._known_equal(source.info, here):
            summary.files_unread += 1
            if attributes.same(source.info, here, self.options.keep):
                self.report.say(2, shown, "equal")
                return
            self._dress_unread(source, folder, name, here, shown)
        else:
            anything = anything and not stat.S_ISREG(here.st_mode)
            with files.closing(source.open()) as src_fd:
                old_fd = None if anything else files.open_old(name, dir_fd=folder.fd, shown=shown)
                if old_fd is None:
                    self._write_new(source, src_fd, folder, name, shown, anything=anything)
                else:
                    with files.closing(old_fd):
                        self._update(source, src_fd, folder, name, old_fd, shown)

    # --- what is known of the two ---

    def _known_equal(self, info: os.stat_result, old_info: os.stat_result) -> bool:
        """Whether the contents are equal, by what is known without opening the two files."""
        source, old = files.version_of(info), files.version_of(old_info)
        if not stat.S_ISREG(old_info.st_mode) or source.length != old.length:
            return False
        # a time that was set, by a copy; two files written in the same clock step have it by chance
        if source.mtime_ns == old.mtime_ns and old.ctime_ns != old.mtime_ns and not self.options.ignore_times:
            return True
        if self.cache.same(source, old):
            return True
        new_tree, old_tree = self._trees(source, old)
        return new_tree is not None and old_tree is not None and new_tree.root == old_tree.root

    def _trees(self, source: files.Version, old: files.Version) -> tuple[Tree | None, Tree | None]:
        """What the index knows of both."""
        known = self.cache.get(source, self.options.block_bytes)
        before = self.cache.get(old, self.options.block_bytes) if known else None
        return known and known.tree, before and before.tree

    def _compare(
        self, old_fd: int, old: files.Version, src_fd: int, source: files.Version, write: Write, use: bool = True
    ) -> NDArray[np.int64]:
        """The runs that differ; each is given to ``write`` as soon as it is found, if that is of ``use``."""
        new_tree, old_tree = self._trees(source, old)
        if new_tree is not None and old_tree is not None:
            runs = tree_runs(old_tree, new_tree)
            if use:
                _copy(runs, src_fd, write)
            return runs
        return differing_runs(
            old_fd,
            src_fd,
            source.length,
            self.options.block_bytes,
            write=write if use else None,
            progress=self.progress,
        )

    # --- content ---

    def _write_new(
        self,
        source: Source,
        src_fd: int,
        folder: Folder | None,
        name: bytes,
        shown: str,
        *,
        anything: bool = False,
        counts: bool = True,
    ) -> None:
        """Write all of it, sharing its blocks where the file system can."""
        version = files.version(src_fd)
        if counts:
            self.report.writes(shown, version.length, version.length)
        if folder is not None and not self.options.dry_run:
            folder.change()
            steps = count()

            def go_on() -> None:  # about: a step may be shorter
                self.progress(min(next(steps) * COPY_BYTES, version.length))

            target = files.Target(
                name, src_fd, version.length, dir_fd=folder.fd, anything=anything, go_on=go_on, shown=shown
            )
            with target:
                self._commit(target, source, src_fd, version, shown)

    def _update(self, source: Source, src_fd: int, folder: Folder, name: bytes, old_fd: int, shown: str) -> None:
        version, looked_ns, old = files.version(src_fd), time.time_ns(), files.version(old_fd)
        with ExitStack() as stack:
            if self.options.inplace and not self.options.dry_run:
                place = stack.enter_context(files.InPlace(shown, old_fd, version.length))
                runs = self._compare(old_fd, old, src_fd, version, place.write_at)
            else:
                make = partial(_make_target, folder, name, old_fd, version.length, src_fd, shown)
                ahead = stack.enter_context(_Ahead(make))
                early = not self.options.dry_run and version.length > READ_BYTES
                runs = self._compare(old_fd, old, src_fd, version, lambda data, offset: ahead.begin(), early)
            if not len(runs) and old.length == version.length:
                _unchanged(src_fd, version)
                _unchanged(old_fd, old)
                entry = attributes.entry(os.fstat(src_fd), source.path, self.options.keep, src_fd)
                if not self._dress(entry, old_fd, os.fstat(old_fd), shown):
                    self._write_new(source, src_fd, folder, name, shown, counts=False)
                elif files.version(old_fd) == old:
                    self.cache.put_same(version, old, looked_ns)
                return
            self.report.writes(shown, int(runs[:, 1].sum()), version.length)
            if self.options.dry_run:
                return
            if self.options.inplace:
                self._commit(place, source, src_fd, version, shown)
                return
            with ahead.target() as target:
                if target.base_fd == old_fd:
                    _copy(runs, src_fd, target.write_at)
                _unchanged(old_fd, old)
                self._commit(target, source, src_fd, version, shown)

    def _commit(
        self, target: files.Target | files.InPlace, source: Source, src_fd: int, version: files.Version, shown: str
    ) -> None:
        _unchanged(src_fd, version)
        entry = attributes.entry(os.fstat(src_fd), source.path, self.options.keep, src_fd)
        if self.options.sparse:
            with destination_errors(shown):
                copying.punch_zeros(target.fd, target.length)

        def dress(fd: int) -> None:
            self.report.dress(shown, fd, entry)

        if isinstance(target, files.InPlace):
            target.commit(None, None, dress=dress)
        else:
            backup = self.options.backup
            mode = 0o600 if self.options.keep.perms else None  # nobody else's until it has its owner
            target.commit(mode, None, new_mode=entry.mode, dress=dress, backup=backup, sync_folder=False)

    # --- metadata ---

    def _dress_unread(self, source: Source, folder: Folder, name: bytes, here: os.stat_result, shown: str) -> None:
        """What was asked to be kept, on a file that is known to be equal."""
        keep = self.options.keep
        with ExitStack() as stack:
            at: Any = ""
            if keep.acls or keep.xattrs:
                at = stack.enter_context(files.closing(source.open()))
            entry = attributes.entry(source.info, source.path, keep, at)
            with destination_errors(shown):
                fd = stack.enter_context(files.closing(attributes.open_place(name, folder.fd)))
            if identity(os.fstat(fd)) != identity(here):
                raise DestinationError(path=printable(shown), reason="was replaced meanwhile; run again")
            if not self._dress(entry, attributes.place(fd), here, shown):
                src_fd = stack.enter_context(files.closing(source.open()))
                self._write_new(source, src_fd, folder, name, shown, counts=False)

    def _dress(self, entry: Entry, at: int | str, here: os.stat_result, shown: str) -> bool:
        """Set what differs; False if the file has other names, for which it shall stay as it is."""
        keep = self.options.keep
        with destination_errors(shown):
            words = attributes.differences(at, entry, keep, here)
            if not words:
                self.report.say(2, shown, "equal")
                return True
            self.report.summary.metadata_changed += 1
            self.report.does(shown, f"setting {', '.join(words)}", f"set {', '.join(words)}")
            if self.options.dry_run:
                return True
            if here.st_nlink > 1 and not self.options.inplace:
                return False
            self.report.dress(shown, at, entry)
        return True


def _make_target(
    folder: Folder,
    name: bytes,
    old_fd: int,
    length: int,
    else_fd: int,
    shown: str,
    go_on: Callable[[], None] | None = None,
) -> files.Target:
    folder.change()
    return files.Target(name, old_fd, length, dir_fd=folder.fd, else_fd=else_fd, go_on=go_on, shown=shown)


class _Ahead:
    """A temporary file that is begun in a thread of its own, as soon as it is known to be needed."""

    def __init__(self, make: Callable[..., files.Target]) -> None:
        self._make = make
        self._lock = Lock()
        self._stopped = False
        self._thread: ThreadPoolExecutor | None = None
        self._future: Future[files.Target] | None = None

    def begin(self) -> None:
        """Begin it, unless it is begun."""
        with self._lock:
            if self._future is None:
                self._thread = ThreadPoolExecutor(1)
                self._future = self._thread.submit(self._make, go_on=self._go_on)

    def target(self) -> files.Target:
        """The file, begun here if it was not yet."""
        return self._future.result() if self._future else self._make()

    def _go_on(self) -> None:
        if self._stopped:
            raise CancelledError

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        if self._thread and self._future:
            self._thread.shutdown()
            if self._future.exception() is None:
                self._future.result().abort()  # nothing, if it was used


def _copy(runs: NDArray[np.int64], src_fd: int, write: Write) -> None:
    buffer = memoryview(bytearray(STEP_BYTES))
    for start, length in ((int(start), int(length)) for start, length in runs):
        for offset in range(start, start + length, STEP_BYTES):
            piece = buffer[: start + length - offset]
            write(piece[: files.read_into(src_fd, piece, offset)], offset)


def _unchanged(fd: int, before: files.Version) -> None:
    if files.version(fd) != before:
        raise SourceError(path=fd_name(fd), reason="changed while it was read; run again")
