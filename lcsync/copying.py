# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Moving bytes between open files: shared blocks where the file system can, in the kernel where it can, holes kept."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable

import numpy as np

from lcsync.const import COPY_BYTES, FALLOC_PUNCH_HOLE, FICLONE, PAGE_BYTES, READ_BYTES, STEP_BYTES


def write_all(fd: int, view: memoryview, offset: int) -> None:
    """Write all of ``view``, in as many calls as it takes."""
    while view:
        n = os.pwrite(fd, view, offset)
        view = view[n:]
        offset += n


def clone(src_fd: int, dst_fd: int) -> bool:
    """Share all blocks of one file with an empty one, where the file system can."""
    try:
        fcntl.ioctl(dst_fd, FICLONE, src_fd)
    except OSError:
        return False
    return True


def copy_data(src_fd: int, dst_fd: int, stop: int, go_on: Callable[[], None] | None = None) -> None:
    """Copy what is not a hole, up to ``stop``. ``go_on`` is called now and then; what it raises ends the copying."""
    end = 0
    while end < stop:
        try:
            start = os.lseek(src_fd, end, os.SEEK_DATA)
            end = min(os.lseek(src_fd, start, os.SEEK_HOLE), stop)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return
            start, end = end, stop  # cannot tell: all of it is data
        if start < end:
            copy_range(src_fd, dst_fd, start, start, end - start, go_on)


def copy_range(
    src_fd: int,
    dst_fd: int,
    src_offset: int,
    dst_offset: int,
    length: int,
    go_on: Callable[[], None] | None = None,
) -> None:
    """Copy in the kernel where it can (shared blocks, server-side copies), else through memory."""
    while length:
        if go_on:
            go_on()
        try:
            n = os.copy_file_range(src_fd, dst_fd, min(length, COPY_BYTES), src_offset, dst_offset)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
            n = 0
        if not n:
            piece = os.pread(src_fd, min(length, READ_BYTES), src_offset)
            if not piece:
                return  # the source became shorter; whoever hashed it will see that
            write_all(dst_fd, memoryview(piece), dst_offset)
            n = len(piece)
        src_offset += n
        dst_offset += n
        length -= n


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make a range that reads as zeros and takes no space, where the file system can."""
    libc = ctypes.CDLL(None)
    return not libc.fallocate(fd, FALLOC_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))


def punch_zeros(fd: int, length: int) -> None:
    """Make holes of all whole pages of zeros, where the file system can. OSError."""
    end = 0
    while end < length:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA) // STEP_BYTES * STEP_BYTES
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return
            start = end
        start = max(start, end)
        end = start + STEP_BYTES
        piece = os.pread(fd, min(STEP_BYTES, length - start), start)
        whole = len(piece) // PAGE_BYTES
        zero = ~np.frombuffer(piece, np.uint8, whole * PAGE_BYTES).reshape(whole, PAGE_BYTES).any(axis=1)
        edges = np.flatnonzero(np.diff(zero, prepend=False, append=False)).tolist()
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if not punch_hole(fd, start + first * PAGE_BYTES, (last - first) * PAGE_BYTES):
                return
