# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How far the reading of files for their hashes is."""

from __future__ import annotations

import os
import stat

from lcsync.events import Gauge, Hashing, Part
from lcsync.paths import printable


class Hashed:
    """Told of one file after the other; ``total`` bytes in all, if that is known."""

    def __init__(self, gauge: Gauge, total: int = 0) -> None:
        self._gauge = gauge
        self._total = total
        self._path: bytes | str = b""
        self._files = self._size = 0
        self._before = self._done = 0  # bytes of the files before, and of this one

    def look(self, path: bytes | str, done: int, size: int = 0) -> None:
        """``done`` of ``size`` bytes of this file or folder are read; 0: nobody knows of how many."""
        if path != self._path or done < self._done:
            self._before += self._done
            self._files += 1
            self._path = path
            self._size = size or _size(path)
        self._done, size = done, self._size
        if self._gauge.due():
            total = self._total or (size if self._files == 1 else 0)
            self._gauge.show(Hashing(Part(printable(path), done, size), self._files, self._before + done, total))


def _size(path: bytes | str) -> int:
    """Of a file; 0 of a folder, or if there is nothing."""
    try:
        info = os.stat(path)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0
