# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Local sync: two trees are compared, and the blocks that differ are copied."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import Event
from typing import TextIO

import numpy as np

from lcsync import files
from lcsync.const import BLOCK_BYTES, READ_BYTES
from lcsync.errors import SourceError, UsageError
from lcsync.merkle import Tree
from lcsync.paths import printable, share_name
from lcsync.text import human_bytes


@dataclass
class Summary:
    """What a sync did; in a dry run, what it would have done."""

    files_compared: int = 0
    files_changed: int = 0
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
    verbose: int = 0,
    out: TextIO | None = None,
) -> Summary:
    """Make ``destination`` equal to ``source``, a file or a folder, as rsync does: ``./a`` goes to ``./b/a``,
    and what is in ``./a/`` goes into ``./b``.

    A file that is equal already is not written at all. Other files in the destination stay. ``out`` gets one line per
    changed file (``verbose`` or ``dry_run``), per equal or skipped one too (``verbose`` of 2).
    UsageError, SourceError (of a folder's files: after the others are done), DestinationError, DiskFull.
    """
    started_s = time.monotonic()
    job = _Job(block_bytes, dry_run, preserve_mode, preserve_times, verbose, out, Summary())
    if files.is_folder(source):
        job.folder(source, destination)
    else:
        job.one_file(source, destination)
    job.summary.seconds = time.monotonic() - started_s
    return job.summary


def differing(old: Tree, new: Tree) -> Iterator[tuple[int, int]]:
    """``(offset, length)`` in bytes of the runs of blocks of ``new`` that ``old`` has not in the same place."""
    common = min(len(old.leaves), len(new.leaves))
    changed = np.ones(len(new.leaves), bool)
    changed[:common] = (old.leaves[:common] != new.leaves[:common]).any(axis=1)
    edges = np.flatnonzero(np.diff(changed, prepend=False, append=False))
    for first, last in edges.reshape(-1, 2).tolist():
        offset = first * new.block_bytes
        if offset < new.length:
            yield offset, min(last * new.block_bytes, new.length) - offset


@dataclass
class _Job:
    block_bytes: int
    dry_run: bool
    preserve_mode: bool
    preserve_times: bool
    verbose: int
    out: TextIO | None
    summary: Summary

    def one_file(self, source: str, destination: str) -> None:
        with files.closing(files.open_source(source)) as src_fd:
            path = files.resolve_destination(destination, share_name(source))
            folder, _, name = os.fsencode(path).rpartition(b"/")
            with suppress(OSError):
                if os.path.samestat(os.fstat(src_fd), os.lstat(path)):
                    raise UsageError(reason=f"{printable(source)} and {printable(path)} are the same file")
            with files.closing(files.open_folder(folder or b"/")) as dir_fd:
                self._file(src_fd, dir_fd, name, path)

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
                for name in names:
                    shown = f"{where}/{os.fsdecode(name)}"
                    try:
                        mode = os.stat(name, dir_fd=src_fd, follow_symlinks=False).st_mode
                        if stat.S_ISDIR(mode):
                            folders.append((*parts, name))
                        elif stat.S_ISREG(mode):
                            with files.closing(files.open_source(name, dir_fd=src_fd, follow=False)) as fd:
                                self._file(fd, dst_fd, name, shown)
                        else:
                            self.summary.files_skipped += 1
                            self._say(2, shown, f"skipped: is a {files.kind_of(mode)}")
                    except SourceError as error:
                        errors.append(error)
                    except OSError as error:  # vanished, or a folder that lets nobody look
                        errors.append(SourceError(path=printable(shown), reason=str(error.strerror).lower()))
            todo += reversed(folders)
        if self.preserve_mode and dst_root is not None and not self.dry_run:
            for parts, mode in reversed(modes):  # last, and from below: a folder may be read-only
                with files.closing(files.open_beneath(dst_root, parts)) as fd:
                    os.fchmod(fd, mode & 0o777)

    def _file(self, src_fd: int, dir_fd: int | None, name: bytes, shown: str) -> None:
        """Sync one file to ``name`` in a folder (None: a dry run would make the folder)."""
        source = files.version(src_fd)
        old_fd = files.open_old(name, dir_fd=dir_fd) if dir_fd is not None else None
        self.summary.files_compared += 1
        self.summary.bytes_compared += source.length
        if old_fd is None:
            self._report(shown, source.length, source.length)
            if dir_fd is not None and not self.dry_run:
                with files.Target(name, src_fd, source.length, dir_fd=dir_fd) as target:
                    self._finish(target, src_fd, source)
            return
        with files.closing(old_fd):
            old = files.version(old_fd)
            if (old.device, old.inode) == (source.device, source.inode):
                return  # hard links to one file
            runs = self._compare(old_fd, old, src_fd, source)
            if runs is None:
                self._say(2, shown, "equal")
                self._metadata(src_fd, old_fd)
                return
            self._report(shown, sum(length for _, length in runs), source.length)
            if dir_fd is None or self.dry_run:
                return
            with files.Target(name, old_fd, source.length, dir_fd=dir_fd) as target:
                buffer = memoryview(bytearray(min(READ_BYTES, source.length)))
                for start, length in runs:
                    for offset in range(start, start + length, READ_BYTES):
                        piece = buffer[: start + length - offset]
                        files.read_into(src_fd, piece, offset)
                        target.write_at(piece, offset)
                _unchanged(old_fd, old)
                self._finish(target, src_fd, source)

    def _compare(
        self, old_fd: int, old: files.Version, src_fd: int, source: files.Version
    ) -> list[tuple[int, int]] | None:
        """The runs to copy, or None if the two are equal. Large ones are hashed at once."""
        if old.length <= READ_BYTES:  # a thread would cost more than it saves
            old_tree = files.read_block_hashes(old_fd, old.length, self.block_bytes)
            new_tree = files.read_block_hashes(src_fd, source.length, self.block_bytes)
        else:
            stop = Event()

            def check(_done: int) -> None:
                if stop.is_set():
                    raise InterruptedError

            with ThreadPoolExecutor(1) as pool:
                try:
                    other = pool.submit(files.read_block_hashes, old_fd, old.length, self.block_bytes, check)
                    new_tree = files.read_block_hashes(src_fd, source.length, self.block_bytes)
                    old_tree = other.result()
                finally:
                    stop.set()
        return None if old_tree.root == new_tree.root else list(differing(old_tree, new_tree))

    def _finish(self, target: files.Target, src_fd: int, source: files.Version) -> None:
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


def _unchanged(fd: int, before: files.Version) -> None:
    if files.version(fd) != before:
        raise SourceError(path=files.fd_name(fd), reason="changed while it was read; run again")
