# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Whether all of a folder fits, before anything of it is written."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from lcsync import copying, files
from lcsync.errors import DestinationError, DiskFull, SourceError
from lcsync.filters import Rules
from lcsync.folders import Identity, identity
from lcsync.paths import printable
from lcsync.text import human_bytes

STAT_BLOCK_BYTES = 512  # of st_blocks, stat(2)


def check(source_fd: int, destination_fd: int, below: bytes, rules: Rules, hard_links: bool, shown: str) -> None:
    """DiskFull if the files of a source folder need more space than is free where the destination is.

    ``below``: the path of the source folder below the top of what is copied. ``hard_links``: they are kept. What the
    destination has already counts as far as sizes go; files that can share their blocks with the source need none.
    Nothing is read but folders.
    """
    free = files.free_bytes(destination_fd)
    there = os.fstatvfs(source_fd)
    if free is None or free >= (there.f_blocks - there.f_bfree) * there.f_frsize > 0:
        return  # all that the source's file system has would fit
    need, sample = _need(source_fd, destination_fd, below, rules, hard_links)
    if need > free and not (sample and _shares_blocks(source_fd, sample, destination_fd)):
        raise DiskFull(path=printable(shown), reason=f"needs {human_bytes(need)}, {human_bytes(free)} are free")


def _need(
    source_fd: int, destination_fd: int, below: bytes, rules: Rules, hard_links: bool
) -> tuple[int, tuple[bytes, ...]]:
    """Bytes that the destination grows by, and the path of one of the files."""
    need = 0
    sample: tuple[bytes, ...] = ()
    counted: set[Identity] = set()
    todo: list[tuple[tuple[bytes, ...], bool]] = [((), True)]
    while todo:
        parts, exists = todo.pop()
        with suppress(SourceError, OSError), files.closing(files.open_beneath(source_fd, parts, source=True)) as src_fd:
            old_fd = -1
            if exists:
                with suppress(DestinationError):
                    old_fd = files.open_beneath(destination_fd, ((below,) if below else ()) + parts)
            try:
                for name in files.names_in(src_fd):
                    with suppress(OSError):
                        info = os.stat(name, dir_fd=src_fd, follow_symlinks=False)
                        path = b"/".join((*((below,) if below else ()), *parts, name))
                        if rules.excluded(path, stat.S_ISDIR(info.st_mode)):
                            continue
                        if stat.S_ISDIR(info.st_mode):
                            todo.append(((*parts, name), old_fd >= 0))
                        elif stat.S_ISREG(info.st_mode) and identity(info) not in counted:
                            if hard_links and info.st_nlink > 1:
                                counted.add(identity(info))
                            need += max(0, _bytes(info) - _bytes_there(name, old_fd))
                            sample = (*parts, name) if info.st_size else sample
            finally:
                if old_fd >= 0:
                    os.close(old_fd)
    return need, sample


def _bytes(info: os.stat_result) -> int:
    """What a file takes: no more than its size, nor than its blocks."""
    return min(info.st_size, info.st_blocks * STAT_BLOCK_BYTES)


def _bytes_there(name: bytes, dir_fd: int) -> int:
    if dir_fd >= 0:
        with suppress(OSError):
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            return _bytes(info) if stat.S_ISREG(info.st_mode) else 0
    return 0


def _shares_blocks(source_fd: int, sample: tuple[bytes, ...], destination_fd: int) -> bool:
    """Whether a file of the source can be cloned to where the destination is."""
    with (
        suppress(SourceError, OSError),
        files.closing(files.open_beneath(source_fd, sample[:-1], source=True)) as above,
        files.closing(files.open_source(sample[-1], dir_fd=above, follow=False)) as src_fd,
        files.closing(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=destination_fd)) as trial_fd,
    ):
        return copying.clone(src_fd, trial_fd)
    return False
