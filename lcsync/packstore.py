# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A pack being put together in a folder: what is written at offsets of the pack goes to its files.

Each file is built beside its place, and goes there when all of its bytes are verified. To sync each of them to the disk
by itself would cost more than all the rest; so they go in batches: written, one syncfs(2) for all, renamed. The promise
is that of a single file, but for its time: at any moment, and after a power cut, a file is the old one or the new one,
whole; that all of them are new for good is so when ``finish`` has returned.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lcsync import copying, files
from lcsync.const import BATCH_BYTES, BATCH_FILES, PARTS_OPEN_MAX, TOUCHED_BYTES_MIN
from lcsync.contents import SOURCE_FLAGS, Contents
from lcsync.entries import Entries, Kind
from lcsync.errors import DestinationError
from lcsync.files import Buffer
from lcsync.files import _umask as umask
from lcsync.leftovers import CREATE, Run
from lcsync.oserrors import destination_errors
from lcsync.pack import Layout, Numbers
from lcsync.paths import printable
from lcsync.reuse import numbers_of
from lcsync.scan import GID, INODE, KIND, MODE, MTIME, SIZE, UID, VERSION, Folders, Scan, row_of

LEFT = [SIZE, MTIME, INODE]  # of a version all that a rename leaves as it is
NOT_TAKEN = -1
Apply = Callable[[int, int, int], None]  # descriptor, entry, mode unless it is told another
WORDS = {Kind.FOLDER: "folder", Kind.FIFO: "fifo", Kind.SOCKET: "socket"}


@dataclass
class Part:
    """An unfinished file: the folder that it is in and its name there, the descriptor while it is open, the file system
    that it is on.
    """

    folder: bytes
    temp: bytes
    device: int = 0
    fd: int = -1


@dataclass
class Done:
    """What became of the files."""

    written: int = 0
    kept: int = 0  # were right already
    batches: int = 0


class PackStore:
    """Writes a pack of ``entries``, laid out as ``layout``, below ``root_fd``. ``here``: what was found there before.

    ``sources``: for each entry the row of ``here`` with content like it, -1: none. What is written as those have it
    already is not written again; the rest of a file that changes is copied from its source. ``taken``: which entries
    are to be there in the end, all unless told; what is written of others goes to a file that is thrown away. ``anew``:
    files that are written even if they are right already.
    ``apply`` gives a finished file its attributes; before, it has those of the file that it replaces, or of a new one.
    ``backup`` keeps what is replaced; ``sparse`` makes holes of all pages of zeros, not only of many. ``anything``:
    what is neither file nor folder may be replaced.

    Engines write and read at offsets of the pack, and say by ``settle`` what is verified. Nothing that is not settled
    reaches a place. Not for several threads. DestinationError, DiskFull.
    """

    def __init__(
        self,
        root_fd: int,
        entries: Entries,
        layout: Layout,
        here: Scan,
        sources: Numbers,
        *,
        taken: NDArray[np.bool_] | None = None,
        anew: NDArray[np.bool_] | None = None,
        apply: Apply | None = None,
        backup: bool = False,
        sparse: bool = False,
        anything: bool = False,
    ) -> None:
        self.entries = entries
        self.layout = layout
        self.here = here
        self.sources = sources.copy()
        self.done = Done()
        self.taken = np.ones(len(entries), bool) if taken is None else taken
        self._anew = np.zeros(len(entries), bool) if anew is None else anew
        self._apply = apply
        self._backup = backup
        self._sparse = sparse
        self._at = numbers_of(entries.paths, here.paths)
        self._own = (self.sources >= 0) & (self.sources == self._at)
        self._remaining = layout.sizes.copy()
        self._parts: dict[int, Part] = {}
        self._open: OrderedDict[int, Part] = OrderedDict()
        self._devices: dict[int, int] = {}  # file systems that were written to, by an entry there
        self._left = np.zeros((len(entries), 3), np.int64)  # of files that were written: what LEFT tells of them
        self._closed: list[tuple[bytes, int]] = []  # folders whose mode is another for the time being
        self._batch: list[int] = []
        self._batch_bytes = 0
        self._users: dict[bytes, list[int]] = {}  # entries whose content is taken from a path that is not their own
        self._umask = umask()
        self._look_for_obstacles(anything)
        paths = [here.paths[i] if i >= 0 else None for i in self.sources.tolist()]
        for entry in np.flatnonzero((self.sources >= 0) & ~self._own).tolist():
            self._users.setdefault(here.paths[self.sources[entry]], []).append(entry)
        self._folders = Folders(root_fd)
        self._run = Run(self._folders.fd(b""))
        self._old = Contents(root_fd, paths, layout)
        self._paths = paths

    def _look_for_obstacles(self, anything: bool) -> None:
        rows = np.flatnonzero(self.taken & (self._at >= 0))
        kinds = self.here.column(KIND)[self._at[rows]]
        file = self.entries.kinds[rows] == Kind.FILE
        wrong = np.where(
            file,
            (kinds == Kind.FOLDER) if anything else (kinds != Kind.FILE) & (kinds != Kind.SYMLINK),
            (self.entries.kinds[rows] == Kind.FOLDER) != (kinds == Kind.FOLDER),
        )
        for i in np.flatnonzero(wrong)[:1].tolist():
            kind = WORDS.get(int(kinds[i]), "device" if kinds[i] >= Kind.CHARACTER else "file or link")
            path = printable(self.entries.paths[int(rows[i])])
            raise DestinationError(path=path, reason=f"is a {kind}; remove it, or choose another destination")

    def begin(self) -> None:
        """Make the folders that are missing, and the files that have no bytes; let those of ours be written to."""
        if os.geteuid():
            self._open_up()
        for entry in self.entries.of_kind(Kind.FOLDER):
            if self._at[entry] < 0 and self.entries.paths[entry] and self.taken[entry]:
                with destination_errors(self.entries.paths[entry]):
                    self._folders.fd(self.entries.paths[entry], create=True)
        empty = np.flatnonzero((self.entries.kinds == Kind.FILE) & (self.layout.sizes == 0) & self.taken)
        sizes, kinds = self.here.column(SIZE), self.here.column(KIND)
        for entry in empty.tolist():
            at = self._at[entry]
            if at >= 0 and kinds[at] == Kind.FILE and sizes[at] == 0 and not self._anew[entry]:
                self.done.kept += 1
            else:
                self._create(entry)
                self._complete(entry)

    def _open_up(self) -> None:
        """A folder of this user's that he may not write to gets its mode back at the end."""
        here = self.here.rows[self._at]
        closed = self.taken & (self._at >= 0) & (self.entries.kinds == Kind.FOLDER) & (here[:, UID] == os.geteuid())
        closed &= here[:, MODE] & stat.S_IRWXU != stat.S_IRWXU
        for entry in np.flatnonzero(closed).tolist():
            path, mode = self.entries.paths[entry], int(here[entry, MODE])
            with destination_errors(path):
                fd = self._folders.fd(path)
                self._closed.append((path, mode))
                os.fchmod(fd, mode | stat.S_IRWXU)

    # --- what the engine calls ---

    def write_at(self, data: Buffer, offset: int) -> None:
        """Write a range of the pack; it may lie anywhere, and need not be right. Padding is not written."""
        flat = np.frombuffer(data, np.uint8).data
        for entry, start, at, size in self.layout.pieces(offset, len(flat)):
            if self._remaining[entry] <= 0:
                continue
            piece = flat[at : at + size]
            if entry in self._parts or not self._is_old(entry, piece, start):
                fd = self._writable(entry, whole=size == self.layout.sizes[entry])
                with destination_errors(self.entries.paths[entry]):
                    self._write(fd, piece, start)

    def _write(self, fd: int, piece: memoryview, start: int) -> None:
        zeros = len(piece) >= TOUCHED_BYTES_MIN and not np.frombuffer(piece, np.uint8).any()
        if not zeros or (os.fstat(fd).st_size > start and not copying.punch_hole(fd, start, len(piece))):
            copying.write_all(fd, piece, start)

    def read_at(self, length: int, offset: int) -> bytes:
        """A range of the pack as it is here now: zeros where nothing is."""
        out = bytearray(length)
        with memoryview(out) as view:
            self._read(view, offset)
        return bytes(out)

    def read_into(self, view: memoryview, offset: int) -> None:
        """The same, into a buffer."""
        view[:] = bytes(len(view))
        self._read(view, offset)

    def _read(self, view: memoryview, offset: int) -> None:
        for entry, start, at, size in self.layout.pieces(offset, len(view)):
            piece = view[at : at + size]
            if entry in self._parts:
                files.read_into(self._writable(entry), piece, start)
            else:
                with suppress(OSError):
                    self._old.read(entry, piece, start)

    def settle(self, offset: int, length: int) -> None:
        """A range is verified: what ``read_at`` gives of it now is right. Each range is to be settled once.

        Files that are whole now go to their places with the next batch.
        """
        entries = self.layout.between(offset, length)
        begins = self.layout.starts[entries]
        ends = begins + self.layout.sizes[entries]
        self._remaining[entries] -= np.minimum(ends, offset + length) - np.maximum(begins, offset)
        for entry in entries[self._remaining[entries] == 0].tolist():
            self._complete(entry)

    def flush(self) -> None:
        """Put the files that are complete in their places."""
        if not self._batch:
            return
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        for entry in batch:  # before their content is gone
            for user in self._users.pop(self.entries.paths[entry], ()):
                if user not in self._parts and self._paths[user] == self.entries.paths[entry]:
                    self._writable(user)
        self._old.forget()
        devices = {self._parts[entry].device: entry for entry in batch}
        self._devices |= devices
        self._sync(devices)
        for entry in batch:
            path = self.entries.paths[entry]
            with destination_errors(path):
                above, name = self._folders.above(path)
                if self._backup:
                    files.keep_backup(name, above)
                os.rename(self._parts[entry].temp, name, src_dir_fd=above, dst_dir_fd=above)
            del self._parts[entry]
            self._paths[entry] = path
        self.done.batches += 1

    def _sync(self, devices: dict[int, int]) -> None:
        for entry in devices.values():
            with destination_errors(self.entries.paths[entry]):
                sync_file_system(self._folders.above(self.entries.paths[entry])[0])

    @property
    def written(self) -> NDArray[np.bool_]:
        """Which entries were written."""
        return self._left[:, 2] > 0

    def finish(self) -> None:
        """All is settled: put the last files in their places, and remove what is not taken."""
        self.flush()
        self._clear()

    def sync(self) -> None:
        """Make durable all that was done, here and by others in these folders."""
        self._sync(self._devices)
        with destination_errors("."):
            sync_file_system(self._folders.fd(b""))

    def versions(self, after: Scan) -> Numbers:
        """``(n, 5)``: versions of what ``after`` found when all was in its place; zeros for what is not as it was left.

        A file that somebody wrote to since is told by its time, unless that is of the same tick of the clock. Of what
        was not taken: NOT_TAKEN.
        """
        at = numbers_of(self.entries.paths, after.paths)
        out = np.where((at >= 0)[:, None], after.versions[at], 0)
        file = self.entries.kinds == Kind.FILE
        written = self.written
        right = np.where(
            written[:, None],
            after.rows[at][:, LEFT] == self._left,
            (after.rows[at][:, VERSION] == self.here.rows[self._at][:, VERSION]).all(axis=1)[:, None],
        )
        out[file & ~right.all(axis=1)] = 0
        out[~self.taken] = NOT_TAKEN
        return out

    def _clear(self) -> None:
        for part in list(self._parts.values()):
            with suppress(OSError):
                os.unlink(part.temp, dir_fd=self._folders.fd(part.folder))
        self._parts.clear()
        for part in self._open.values():
            os.close(part.fd)
        self._open.clear()
        self._run.close()
        while self._closed:
            path, mode = self._closed.pop()
            with suppress(OSError):
                os.fchmod(self._folders.fd(path), mode)

    def abort(self) -> None:
        """Remove all that is unfinished, and close everything."""
        self._clear()
        self._old.close()
        self._folders.close()

    # --- one file ---

    def _is_old(self, entry: int, piece: memoryview, start: int) -> bool:
        """Whether the file that is in the entry's place has these bytes already."""
        if not self._own[entry] or self.here.rows[self._at[entry], SIZE] < start + len(piece):
            return False
        buffer = bytearray(len(piece))
        try:
            return self._old.read(entry, memoryview(buffer), start) == len(piece) and buffer == piece
        except OSError:
            return False

    def _create(self, entry: int) -> int:
        """A new temporary file; its descriptor."""
        path = self.entries.paths[entry]
        with destination_errors(path):
            if self.taken[entry]:
                folder, _, name = path.rpartition(b"/")
                above = self._folders.fd(folder, create=True)
            else:
                folder, name, above = b"", b"%d" % entry, self._folders.fd(b"")
            for temp in self._run.names(name):
                self._parts[entry] = part = Part(folder, temp)  # first: a signal may come as soon as it is there
                with suppress(FileExistsError):
                    fd = os.open(temp, CREATE, 0o600, dir_fd=above)
                    break
            part.device = os.fstat(fd).st_dev
        self._keep_open(entry, part, fd)
        return fd

    def _keep_open(self, entry: int, part: Part, fd: int) -> None:
        part.fd = fd
        self._open[entry] = part
        if len(self._open) > PARTS_OPEN_MAX:
            self._close(next(iter(self._open)))

    def _close(self, entry: int) -> None:
        part = self._open.pop(entry, None)
        if part is not None:
            fd, part.fd = part.fd, -1
            os.close(fd)

    def _writable(self, entry: int, whole: bool = False) -> int:
        """A descriptor of the entry's temporary file; it begins as its source, unless the ``whole`` is written now."""
        part = self._parts.get(entry)
        if part is None:
            fd = self._create(entry)
            if not whole:
                self._start_from_source(entry, fd)
            return fd
        if part.fd >= 0:
            self._open.move_to_end(entry)
            return part.fd
        path = self.entries.paths[entry]
        with destination_errors(path):
            fd = os.open(part.temp, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folders.fd(part.folder))
        self._keep_open(entry, part, fd)
        return fd

    def _start_from_source(self, entry: int, fd: int) -> None:
        size = int(self.layout.sizes[entry])
        source = self._paths[entry]
        with destination_errors(self.entries.paths[entry]):
            if source is not None:
                above, name = self._folders.above(source)
                with files.closing(os.open(name, SOURCE_FLAGS, dir_fd=above)) as old:
                    self._check_version(entry, old)
                    if not copying.clone(old, fd):
                        copying.copy_data(old, fd, min(os.fstat(old).st_size, size))
                    self._check_version(entry, old)
            os.ftruncate(fd, size)

    def _check_version(self, entry: int, fd: int) -> None:
        row = np.array(row_of(os.fstat(fd)), np.int64)
        if (row[VERSION] != self.here.rows[self.sources[entry], VERSION]).any():
            path = printable(self._paths[entry] or b"")
            raise DestinationError(path=path, reason="changed while it was compared; run again")

    def _complete(self, entry: int) -> None:
        if not self.taken[entry]:
            self._throw_away(entry)
            return
        if entry not in self._parts:
            right = self._own[entry] and self.here.rows[self._at[entry], SIZE] == self.layout.sizes[entry]
            if right and not self._anew[entry]:
                self.done.kept += 1
                return
            self._writable(entry)
        with destination_errors(self.entries.paths[entry]):
            fd, size = self._writable(entry), int(self.layout.sizes[entry])
            if os.fstat(fd).st_size != size:  # it ends in a hole
                os.ftruncate(fd, size)
            if self._sparse:
                copying.punch_zeros(fd, size)
            self._give_attributes(fd, entry)
            row = row_of(os.fstat(fd))
            self._left[entry] = row[SIZE], row[MTIME], row[INODE]
            self._close(entry)
        self.done.written += 1
        self._batch.append(entry)
        self._batch_bytes += int(self.layout.sizes[entry])
        if len(self._batch) >= BATCH_FILES or self._batch_bytes >= BATCH_BYTES:
            self.flush()

    def _throw_away(self, entry: int) -> None:
        self._close(entry)
        part = self._parts.pop(entry, None)
        if part is not None:
            with destination_errors(self.entries.paths[entry]):
                os.unlink(part.temp, dir_fd=self._folders.fd(part.folder))

    def _give_attributes(self, fd: int, entry: int) -> None:
        at = int(self._at[entry])
        mode = 0o666 if self.entries.modes is None else int(self.entries.modes[entry]) & 0o777
        mode &= ~self._umask
        if at >= 0 and self.here.rows[at, KIND] == Kind.FILE:
            row = self.here.rows[at]
            mode = int(row[MODE]) & 0o777
            if row[UID] != os.geteuid() or row[GID] != os.getegid():
                with suppress(PermissionError):
                    os.fchown(fd, int(row[UID]), int(row[GID]))
        if self._apply is None:
            os.fchmod(fd, mode)
        else:
            self._apply(fd, entry, mode)

    def __enter__(self) -> PackStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def sync_file_system(fd: int) -> None:
    """All that was written to the file system of an open file is on the disk. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
