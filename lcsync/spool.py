# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Stores of a fetch that are files: the old one, and one that goes to a pipe in order while it comes in any order."""

from __future__ import annotations

import os
import tempfile
import threading

from lcsync import copying, files
from lcsync.const import POLL_S, SEGMENT_BYTES
from lcsync.errors import DestinationError
from lcsync.oserrors import destination_errors

OUT = "standard output"


class OldFile:
    """The bytes of a file that was here, open as ``fd``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        raise TypeError("an old file is only read")

    def read_at(self, length: int, offset: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def read_into(self, view: memoryview, offset: int) -> None:
        files.read_into(self.fd, view, offset)

    def settle(self, offset: int, length: int) -> None:
        pass


class Spool:
    """A store for ``length`` bytes, in a file without a name in the folder for temporary files.

    What is ``whole`` from the beginning on goes to descriptor ``out`` in a thread of its own, and is let go: the file
    takes no more room than what has come and is not written yet, which is bounded by ``length`` alone. A reader of
    ``out`` that waits holds up nothing else. DiskFull, DestinationError.
    """

    def __init__(self, length: int, out: int) -> None:
        self._folder = os.fsencode(tempfile.gettempdir())
        with destination_errors(self._folder):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the thread lives
            self._file.truncate(length)  # what nobody writes is zeros
        self._length, self._out = length, out
        self._whole = self._written = 0
        self._changed = threading.Condition()
        self._error: OSError | None = None
        # a reader may keep it waiting for ever: it must not keep the program from its end
        self._thread = threading.Thread(target=self._write, name="spool", daemon=True)
        self._thread.start()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._length = self._whole = self._written  # no more
            self._changed.notify()
        self._thread.join(POLL_S)
        if not self._thread.is_alive():  # else it waits for a reader that takes nothing
            self._file.close()

    # --- the store ---

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        with destination_errors(self._folder):
            copying.write_all(self.fileno(), memoryview(data), offset)

    def read_at(self, length: int, offset: int) -> bytes:
        return os.pread(self.fileno(), length, offset)

    def read_into(self, view: memoryview, offset: int) -> None:
        files.read_into(self.fileno(), view, offset)

    def settle(self, offset: int, length: int) -> None:
        pass

    # --- the pipe ---

    def fileno(self) -> int:
        return self._file.fileno()

    @property
    def written(self) -> int:
        """Bytes that ``out`` has taken."""
        return self._written

    def whole(self, length: int) -> None:
        """The first ``length`` bytes are right, and may go. DestinationError if nobody takes them any more."""
        with self._changed:
            if self._error:
                why = "its reader has gone" if isinstance(self._error, BrokenPipeError) else self._error.strerror
                raise DestinationError(path=OUT, reason=why)
            self._whole = length
            self._changed.notify()

    def wait(self, seconds: float) -> bool:
        """Wait until all is written, or so long; whether it is."""
        self._thread.join(seconds)
        self.whole(self._whole)
        return self._written == self._length

    def _write(self) -> None:
        fd = self.fileno()
        try:
            os.set_blocking(self._out, True)
            while self._written < self._length:
                with self._changed:
                    self._changed.wait_for(lambda: self._whole > self._written or self._written >= self._length)
                    whole = self._whole
                while self._written < whole:
                    start = self._written
                    left = memoryview(os.pread(fd, min(SEGMENT_BYTES, whole - start), start))
                    while left:
                        done = os.write(self._out, left)
                        left = left[done:]
                        self._written += done
                    copying.punch_hole(fd, start, self._written - start)
        except OSError as error:
            with self._changed:
                self._error = error
