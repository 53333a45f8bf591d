# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the operating system says is wrong, as an error that tells a user what to do."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lcsync.errors import DestinationError, DiskFull, SourceError
from lcsync.paths import printable

FULL = {
    errno.ENOSPC: "no space left there",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "larger than a file may be there (see also ulimit -f)",
}
DENIED = {
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "not permitted (immutable?); see lsattr, or choose another folder",
    errno.EROFS: "the file system is read-only; mount it writable, or choose another destination",
    errno.ELOOP: "a symbolic link is in the way; remove it, or name its target",
    errno.ENOTDIR: "something that is not a folder is in the way; remove it, or choose another destination",
    errno.EISDIR: "is a folder; remove it, or choose another name",
}


@contextmanager
def source_errors(path: str | bytes | int) -> Iterator[None]:
    """Says an OSError as a SourceError."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOENT: "no such file",
            errno.ENXIO: "is a socket or a device, not a file",
            errno.ELOOP: "is a symbolic link, or too many of them",
            errno.ENOTDIR: "part of the path is not a folder",
        }
        reason = reasons.get(error.errno or 0) or (error.strerror or str(error)).lower()
        shown = fd_name(path) if isinstance(path, int) else printable(path)
        raise SourceError(path=shown, reason=reason) from None


class destination_errors:  # small: entered some times for each file
    """Says an OSError as a DestinationError or DiskFull that tells what to do."""

    __slots__ = ("_folder", "_path")

    def __init__(self, path: str | bytes, folder: str | bytes | None = None) -> None:
        self._path = path
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise destination_error(self._path, error, self._folder) from None


def destination_error(
    path: str | bytes, error: OSError, folder: str | bytes | None = None
) -> DestinationError | DiskFull:
    code = error.errno or 0
    shown = printable(path)
    if code in FULL:
        return DiskFull(path=shown, reason=FULL[code])
    if code == errno.ENOENT and folder is not None:
        reason = f"no such folder; make it first: mkdir -p {shlex.quote(printable(folder))}"
        return DestinationError(path=shown, reason=reason)
    return DestinationError(path=shown, reason=DENIED.get(code) or (error.strerror or str(error)).lower())


def fd_name(fd: int) -> str:
    """The path of an open file, for messages."""
    try:
        return printable(os.fsencode(Path(f"/proc/self/fd/{fd}").readlink()))
    except OSError:
        return f"descriptor {fd}"
