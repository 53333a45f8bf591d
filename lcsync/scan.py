# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Folders below a root by their descriptors, through no symbolic link; and what is in all of them."""

from __future__ import annotations

import os
import stat
import sys
from array import array
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lcsync.const import FOLDERS_OPEN_MAX
from lcsync.entries import Kind
from lcsync.files import FOLDER_FLAGS
from lcsync.paths import printable

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}
COLUMNS = ("kind", "size", "mtime_ns", "ctime_ns", "inode", "device", "mode", "uid", "gid", "links", "rdev")
KIND, SIZE, MTIME, CTIME, INODE, DEVICE, MODE, UID, GID, LINKS, RDEV = range(len(COLUMNS))
VERSION = [SIZE, MTIME, CTIME, INODE, DEVICE]  # what changes whenever the content does
_TYPE = 0o170000  # S_IFMT, st_mode(7)
_ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # of os.fsencode, which is five times slower
_WORD = (1 << 63) - 1  # some file systems use the top bit of inode numbers


class Folders:
    """Descriptors of folders below ``root_fd`` (which is duplicated), at most ``limit`` open; not for several threads.

    Errors are OSErrors: ELOOP or ENOTDIR where a symbolic link, or what is no folder, is in the way.
    """

    def __init__(self, root_fd: int, limit: int = FOLDERS_OPEN_MAX) -> None:
        self.limit = limit
        self._root = os.dup(root_fd)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def fd(self, path: bytes, *, create: bool = False) -> int:
        """A descriptor of the folder at a safe relative path, good until the next call; empty: the root."""
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        above, _, name = path.rpartition(b"/")
        todo = [name]
        while above and above not in self._open:
            above, _, name = above.rpartition(b"/")
            todo.append(name)
        fd = self._open[above] if above else self._root
        at = above
        for name in reversed(todo):
            at = at + b"/" + name if at else name
            fd = self._keep(at, self._enter(fd, name, create))
        return fd

    @staticmethod
    def _enter(above: int, name: bytes, create: bool) -> int:
        try:
            return os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=above)
        except FileNotFoundError:
            if not create:
                raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        return os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=above)

    def _keep(self, path: bytes, fd: int) -> int:
        self._open[path] = fd
        if len(self._open) > self.limit:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return fd

    def above(self, path: bytes, *, create: bool = False) -> tuple[int, bytes]:
        """The descriptor of the folder that a path is in, and its last component."""
        folder, _, name = path.rpartition(b"/")
        return self.fd(folder, create=create), name

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> Folders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(eq=False)
class Scan:
    """What is below a folder: ``paths`` in byte order, the first the folder itself, and a row of COLUMNS for each.

    ``skipped``: what could not be looked at, and why.
    """

    paths: list[bytes]
    rows: NDArray[np.int64]
    skipped: list[str]

    def column(self, number: int) -> NDArray[np.int64]:
        values: NDArray[np.int64] = self.rows[:, number]
        return values

    @property
    def versions(self) -> NDArray[np.int64]:
        """``(n, 5)``: equal before and after means that the content did not change in between."""
        return np.ascontiguousarray(self.rows[:, VERSION])


def row_of(info: os.stat_result) -> tuple[int, ...]:
    """A status as COLUMNS; times after 2262 are the last that fits."""
    return tuple(min(number, _WORD) for number in _row(info))


def _row(info: os.stat_result) -> tuple[int, ...]:
    mode = info.st_mode
    return (
        _KINDS[mode & _TYPE], info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino & _WORD,
        info.st_dev & _WORD, mode & 0o7777, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev & _WORD,
    )  # fmt: skip


def scan(root_fd: int) -> Scan:
    """Look at everything below a folder, following nothing."""
    paths = [b""]
    rows = array("q", row_of(os.fstat(root_fd)))
    skipped: list[str] = []
    todo = [b""]
    with Folders(root_fd) as folders:
        while todo:
            path = todo.pop()
            before = path + b"/" if path else b""
            try:
                with os.scandir(folders.fd(path)) as found:
                    for entry in found:
                        try:
                            info = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        row = _row(info)
                        try:
                            rows.extend(row)
                        except OverflowError:
                            del rows[len(paths) * len(COLUMNS) :]
                            rows.extend(row_of(info))
                        paths.append(before + entry.name.encode(*_ENCODING))
                        if row[KIND] == Kind.FOLDER:
                            todo.append(paths[-1])
            except FileNotFoundError:
                continue
            except OSError as error:
                skipped.append(f"{printable(path)}: {(error.strerror or str(error)).lower()}")
    order = sorted(range(len(paths)), key=paths.__getitem__)
    table = np.frombuffer(rows, np.int64).reshape(-1, len(COLUMNS))[order]
    return Scan([paths[i] for i in order], table, skipped)
