# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Temporary files of runs that fetch a folder, and what dead ones left: to be used again, and removed.

All temporary files of a run end with one number, and one file at the top of the folder with that number is locked while
the run lives. So there may be any number of them, and none need be open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from lcsync import files
from lcsync.const import COMPONENT_BYTES_MAX
from lcsync.entries import Kind
from lcsync.errors import DestinationError
from lcsync.folders import Folder
from lcsync.paths import printable
from lcsync.scan import DEVICE, INODE, KIND, Scan, row_of

MARK = b".folder.lcsync-"  # the file that is locked
SUFFIX_BYTES = 16  # ".lcsync-" and eight digits
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Run:
    """This run, in the open folder ``root_fd``, which is used until ``close``. OSError."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._mark = b""
        self._fd = -1

    def names(self, name: bytes) -> Iterator[bytes]:
        """Names of a new temporary file for what will be ``name``: the next one is for when there is one already."""
        if self._fd < 0:
            self._begin()
        yield b".%s.lcsync-%s" % (name[: COMPONENT_BYTES_MAX - SUFFIX_BYTES - 1], self._mark[len(MARK) :])
        while True:  # of two long names that begin alike
            yield files.temporary_name(name)

    def _begin(self) -> None:
        while self._fd < 0:
            self._mark = files.temporary_name(b"folder")
            self._fd = os.open(self._mark, CREATE, 0o600, dir_fd=self._root_fd)
            if not files.lock(self._fd):  # swept away before it was locked
                os.close(self._fd)
                self._fd = -1

    def close(self) -> None:
        """No temporary file is there any more."""
        if self._mark:  # a signal may come when the file is there and its number not yet in `_fd`
            with suppress(OSError):
                os.unlink(self._mark, dir_fd=self._root_fd)
            self._mark = b""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def temporaries(here: Scan) -> NDArray[np.int64]:
    """The rows of what is named as a temporary file or folder."""
    match, mark = files.TEMPORARY.fullmatch, files.TEMPORARY_MARK
    rows = [i for i, path in enumerate(here.paths) if mark in path and match(path.rpartition(b"/")[2])]
    return np.array(rows, np.int64)


def dead(here: Scan, root_fd: int, rows: NDArray[np.int64]) -> list[int]:
    """Those of ``rows``, as ``temporaries`` gives them, that belong to no living run."""
    out: list[int] = []
    living: dict[bytes, bool] = {}
    with Folder(root_fd, (), "", durable=False) as root:
        for row in rows.tolist():
            folder, _, name = here.paths[row].rpartition(b"/")
            run = name[-8:]
            if run not in living:
                living[run] = root.living(MARK + run)
            if living[run]:
                continue
            with suppress(DestinationError), Folder(root_fd, _parts(folder), "", durable=False) as above:
                if not above.living(name):
                    out.append(row)
    return out


def remove(here: Scan, root_fd: int, rows: Iterable[int]) -> int:
    """Remove these rows, if they are what was found; returns how many. DestinationError."""
    by_folder: dict[bytes, list[int]] = {}
    for row in rows:
        by_folder.setdefault(here.paths[row].rpartition(b"/")[0], []).append(row)
    removed = 0
    for path, below in by_folder.items():
        with Folder(root_fd, _parts(path), printable(path)) as folder:
            names = []
            for row in below:
                name = here.paths[row].rpartition(b"/")[2]
                now = folder.status(name)
                if now is not None and _is(now, here, row):
                    names.append(name)
            removed += folder.sweep(names)
    return removed


def _is(now: os.stat_result, here: Scan, row: int) -> bool:
    row_now = row_of(now)
    return (row_now[INODE], row_now[DEVICE]) == (int(here.rows[row, INODE]), int(here.rows[row, DEVICE]))


def meant(here: Scan, rows: Iterable[int]) -> dict[bytes, int]:
    """For each path that a temporary file of ``rows`` was to be, its row."""
    out: dict[bytes, int] = {}
    for row in rows:
        folder, slash, name = here.paths[row].rpartition(b"/")
        if here.rows[row, KIND] == Kind.FILE:
            out[folder + slash + name[1:-SUFFIX_BYTES]] = row
    return out


def _parts(path: bytes) -> tuple[bytes, ...]:
    return tuple(path.split(b"/")) if path else ()
