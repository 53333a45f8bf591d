# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Local sync: two files are compared, and the blocks that differ are copied."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import TracebackType
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from lcsync import files
from lcsync.cache import TreeCache
from lcsync.compare import Write, differing_runs, tree_runs
from lcsync.const import BLOCK_BYTES, READ_BYTES, STEP_BYTES
from lcsync.errors import SourceError, UsageError
from lcsync.merkle import Tree
from lcsync.paths import printable, share_name
from lcsync.text import human_bytes

Progress = Callable[[int, int], None]  # bytes done, bytes in all

@dataclass
class Summary:
    """What a sync did; in a dry run, what it would have done."""

    files_compared: int = 0
    files_changed: int = 0
    files_unread: int = 0  # known to be equal without opening them
    files_skipped: int = 0  # symbolic links, fifos, sockets, devices
    bytes_compared: int = 0  # of the sources
    bytes_written: int = 0  # in blocks that differ
    seconds: float = 0.0


def sync(
    source: str,
    destination: str,
    *,
    block_bytes: int = BLOCK_BYTES,
    dry_run: bool = False,
    preserve_mode: bool = False,
    preserve_times: bool = False,
    inplace: bool = False,
    ignore_times: bool = False,
    cache: TreeCache | None = None,
    progress: Progress = lambda here, total: None,
    verbose: int = 0,
    out: TextIO | None = None,
) -> Summary:
    """Make ``destination`` equal to ``source``, a file or a folder, as rsync does: ``./a`` goes to ``./b/a``,
    and what is in ``./a/`` goes into ``./b``.

    A file that is equal already is not written at all, and not even opened where its size and a time that was copied
    say so (but for ``ignore_times``), or ``cache`` does. Other files in the destination stay. ``inplace`` changes
    files where they are, where else each is the old or the new one. ``progress`` gets the bytes done, and those of all
    files seen so far. ``out`` gets one line per
    changed file (``verbose`` or ``dry_run``), per equal or skipped one too (``verbose`` of 2).
    UsageError, SourceError (of a folder's files: after the others are done), DestinationError, DiskFull.
    """
    started_s = time.monotonic()
    job = _Job(
        block_bytes,
        dry_run,
        preserve_mode,
        preserve_times,
        inplace,
        ignore_times,
        cache or TreeCache(None),
        progress,
        verbose,
        out,
        Summary(),
    )
    if files.is_folder(source):
        job.folder(source, destination)
    else:
        job.one_file(source, destination)
    job.summary.seconds = time.monotonic() - started_s
    return job.summary


class _Source(NamedTuple):
    """A file to copy: its status, and how to open it."""

    info: os.stat_result
    open: Callable[[], int]


@dataclass
class _Job:
    block_bytes: int
    dry_run: bool
    preserve_mode: bool
    preserve_times: bool
    inplace: bool
    ignore_times: bool
    cache: TreeCache
    progress: Progress
    verbose: int
    out: TextIO | None
    summary: Summary
    _done: int = 0  # bytes of sources
    _seen: int = 0

    def one_file(self, source: str, destination: str) -> None:
        info = files.source_status(source)
        path = files.resolve_destination(destination, share_name(source))
        folder, _, name = os.fsencode(path).rpartition(b"/")
        with suppress(OSError):
            if os.path.samestat(info, os.lstat(path)):
                raise UsageError(reason=f"{printable(source)} and {printable(path)} are the same file")
        self._seen = info.st_size
        with files.closing(files.open_folder(folder or b"/")) as dir_fd:
            self._file(_Source(info, lambda: files.open_source(source)), dir_fd, name, path)

    def folder(self, source: str, destination: str) -> None:
        base = b"" if source.rpartition("/")[2] in ("", ".", "..") else share_name(source)
        final = os.path.realpath(os.fsencode(destination) + b"/" + base)
        if (final + b"/").startswith(os.path.realpath(os.fsencode(source)).rstrip(b"/") + b"/"):
            raise UsageError(reason=f"{printable(final)} is the source, {printable(source)}, or in it")
        errors: list[SourceError] = []
        with ExitStack() as stack:
            src_fd = stack.enter_context(files.closing(files.open_folder(source, source=True)))
            dst_fd = self._destination_folder(destination)
            if dst_fd is not None:
                stack.enter_context(files.closing(dst_fd))
            self._walk(src_fd, dst_fd, (base,) if base else (), destination, errors)
        if errors:
            reason = f"{len(errors)} not copied, the others are; the first: {errors[0]}"
            raise SourceError(path=printable(source), reason=reason)

    def _destination_folder(self, destination: str) -> int | None:
        """The folder to write into; None if only a dry run may know of it."""
        here = destination.rstrip("/") or "/"
        if not files.is_folder(here):
            path = files.resolve_destination(here, b"any")  # not a folder: the path itself, its parent is one
            parent, _, name = os.fsencode(path).rpartition(b"/")
            with files.closing(files.open_folder(parent or b"/")) as dir_fd:
                return self._below(dir_fd, (name,))
        return files.open_folder(here)

    def _below(self, dst_fd: int | None, parts: tuple[bytes, ...]) -> int | None:
        """The folder ``parts`` below ``dst_fd``, made if missing; None if a dry run finds none."""
        if dst_fd is None:
            return None
        for i in range(len(parts) if self.dry_run else 0):
            with files.closing(files.open_beneath(dst_fd, parts[:i])) as above:
                try:
                    os.stat(parts[i], dir_fd=above, follow_symlinks=False)
                except FileNotFoundError:
                    return None
        return files.open_beneath(dst_fd, parts, create=not self.dry_run)

    def _walk(
        self, src_root: int, dst_root: int | None, prefix: tuple[bytes, ...], label: str, errors: list[SourceError]
    ) -> None:
        """Sync all below ``src_root``. Folders are opened from the roots by names: no depth uses up descriptors."""
        todo: list[tuple[bytes, ...]] = [()]
        modes: list[tuple[tuple[bytes, ...], int]] = []
        while todo:
            parts = todo.pop()
            where = "/".join([label.rstrip("/"), *map(os.fsdecode, prefix + parts)])
            folders: list[tuple[bytes, ...]] = []
            with ExitStack() as stack:
                try:
                    src_fd = stack.enter_context(files.closing(files.open_beneath(src_root, parts, source=True)))
                    names = files.names_in(src_fd)
                except SourceError as error:
                    errors.append(error)
                    continue
                dst_fd = self._below(dst_root, prefix + parts)
                if dst_fd is not None:
                    stack.enter_context(files.closing(dst_fd))
                modes.append((prefix + parts, os.fstat(src_fd).st_mode))
                found: list[tuple[bytes, str, os.stat_result]] = []
                for name in names:
                    shown = f"{where}/{os.fsdecode(name)}"
                    try:
                        info = os.stat(name, dir_fd=src_fd, follow_symlinks=False)
                    except OSError as error:  # vanished, or a folder that lets nobody look
                        errors.append(SourceError(path=printable(shown), reason=str(error.strerror).lower()))
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        folders.append((*parts, name))
                    elif stat.S_ISREG(info.st_mode):
                        found.append((name, shown, info))
                        self._seen += info.st_size
                    else:
                        self.summary.files_skipped += 1
                        self._say(2, shown, f"skipped: is a {files.kind_of(info.st_mode)}")
                for name, shown, info in found:
                    opening = partial(files.open_source, name, dir_fd=src_fd, follow=False)
                    try:
                        self._file(_Source(info, opening), dst_fd, name, shown)
                    except SourceError as error:
                        errors.append(error)
            todo += reversed(folders)
        if self.preserve_mode and dst_root is not None and not self.dry_run:
            for parts, mode in reversed(modes):  # last, and from below: a folder may be read-only
                with files.closing(files.open_beneath(dst_root, parts)) as fd:
                    os.fchmod(fd, mode & 0o777)

    def _file(self, source: _Source, dir_fd: int | None, name: bytes, shown: str) -> None:
        """Sync one file to ``name`` in a folder (None: a dry run would make the folder)."""
        size = source.info.st_size
        self.summary.files_compared += 1
        self.summary.bytes_compared += size
        if dir_fd is not None and self._proved(source.info, dir_fd, name):
            self.summary.files_unread += 1
            self._say(2, shown, "equal")
        else:
            with files.closing(source.open()) as src_fd:
                self._read_file(src_fd, dir_fd, name, shown)
        self._done += size
        self.progress(self._done, self._seen)

    def _proved(self, info: os.stat_result, dir_fd: int, name: bytes) -> bool:
        """Whether nothing is to do, by what is known without opening the two files."""
        try:
            old_info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return False
        source, old = files.version_of(info), files.version_of(old_info)
        if (source.device, source.inode) == (old.device, old.inode):
            return True  # hard links to one file
        if not stat.S_ISREG(old_info.st_mode) or source.length != old.length:
            return False
        if self.preserve_mode and (info.st_mode ^ old_info.st_mode) & 0o777:
            return False
        if source.mtime_ns == old.mtime_ns:
            # a time that was set, by a copy; two files written in the same clock step have it by chance
            if old.ctime_ns != old.mtime_ns and not self.ignore_times:
                return True
        elif self.preserve_times:
            return False
        if self.cache.same(source, old):
            return True
        new_tree, old_tree = self._trees(source, old)
        return new_tree is not None and old_tree is not None and new_tree.root == old_tree.root

    def _trees(self, source: files.Version, old: files.Version) -> tuple[Tree | None, Tree | None]:
        """What the index knows of both."""
        known = self.cache.get(source, self.block_bytes)
        before = self.cache.get(old, self.block_bytes) if known else None
        return known and known.tree, before and before.tree

    def _read_file(self, src_fd: int, dir_fd: int | None, name: bytes, shown: str) -> None:
        source, looked_ns = files.version(src_fd), time.time_ns()
        old_fd = files.open_old(name, dir_fd=dir_fd) if dir_fd is not None else None
        if old_fd is None:
            self._report(shown, source.length, source.length)
            if dir_fd is not None and not self.dry_run:
                with files.Target(name, src_fd, source.length, dir_fd=dir_fd) as target:
                    self._finish(target, src_fd, source)
            return
        with files.closing(old_fd):
            old = files.version(old_fd)
            if self.inplace and not self.dry_run:
                with files.InPlace(shown, old_fd, source.length) as place:
                    runs = self._compare(old_fd, old, src_fd, source, place.write_at)
                    if len(runs) or old.length != source.length:
                        self._report(shown, int(runs[:, 1].sum()), source.length)
                        self._finish(place, src_fd, source)
                        return
                    self._equal(src_fd, source, old_fd, old, looked_ns, shown)
                    return
            assert dir_fd is not None
            make = partial(files.Target, name, old_fd, source.length, dir_fd=dir_fd, else_fd=src_fd)
            with _Ahead(make) as ahead:
                early = not self.dry_run and source.length > READ_BYTES
                runs = self._compare(old_fd, old, src_fd, source, lambda data, offset: ahead.begin(), early)
                if not len(runs) and old.length == source.length:
                    self._equal(src_fd, source, old_fd, old, looked_ns, shown)
                    return
                self._report(shown, int(runs[:, 1].sum()), source.length)
                if self.dry_run:
                    return
                with ahead.target() as target:
                    if target.base_fd == old_fd:
                        _copy(runs, src_fd, target.write_at)
                    _unchanged(old_fd, old)
                    self._finish(target, src_fd, source)

    def _equal(
        self, src_fd: int, source: files.Version, old_fd: int, old: files.Version, looked_ns: int, shown: str
    ) -> None:
        _unchanged(src_fd, source)
        _unchanged(old_fd, old)
        self._say(2, shown, "equal")
        self.cache.put_same(source, old, looked_ns)
        self._metadata(src_fd, old_fd)

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
            self.block_bytes,
            write=write if use else None,
            progress=lambda here: self.progress(self._done + here, self._seen),
        )

    def _finish(self, target: files.Target | files.InPlace, src_fd: int, source: files.Version) -> None:
        _unchanged(src_fd, source)
        mode = os.fstat(src_fd).st_mode if self.preserve_mode else None
        target.commit(mode, source.mtime_ns if self.preserve_times else None)

    def _metadata(self, src_fd: int, old_fd: int) -> None:
        """What was asked to be preserved, on a file whose content is equal."""
        if self.dry_run:
            return
        st, old = os.fstat(src_fd), os.fstat(old_fd)
        if self.preserve_mode and (st.st_mode ^ old.st_mode) & 0o777:
            os.fchmod(old_fd, st.st_mode & 0o777)
        if self.preserve_times and st.st_mtime_ns != old.st_mtime_ns:
            os.utime(old_fd, ns=(old.st_atime_ns, st.st_mtime_ns))

    def _report(self, shown: str, written: int, length: int) -> None:
        self.summary.files_changed += 1
        self.summary.bytes_written += written
        verb = "would write" if self.dry_run else "writing"
        self._say(0 if self.dry_run else 1, shown, f"{verb} {human_bytes(written)} of {human_bytes(length)}")

    def _say(self, level: int, shown: str, what: str) -> None:
        if self.out is not None and self.verbose >= level:
            print(f"{printable(shown)}: {what}", file=self.out)


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
        raise SourceError(path=files.fd_name(fd), reason="changed while it was read; run again")
