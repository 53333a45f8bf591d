# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Reading and writing files safely.

Sources are read, never mapped: a mapped file that shrinks is SIGBUS. A destination is built beside itself and renamed
into place whole, so at any moment it is the old file or the new one. Every operation after the folder was opened is
relative to that descriptor, so nobody can swap a folder for a symbolic link in between.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcsync import copying
from lcsync.const import (
    COMPONENT_BYTES_MAX,
    HASH_BYTES,
    LANES_MAX,
    READ_BYTES,
    STEP_BYTES,
    TOUCHED_BYTES_MIN,
    TOUCHED_MARKS_MAX,
)
from lcsync.errors import DestinationError, DiskFull, SourceError
from lcsync.merkle import Tree, block_count, hash_leaves
from lcsync.oserrors import destination_error, destination_errors, fd_name, source_errors
from lcsync.paths import printable, safe_relative
from lcsync.pieces import in_order
from lcsync.text import human_bytes

Buffer = bytes | bytearray | memoryview | NDArray[Any]

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
TEMPORARY_MARK = b".lcsync-"  # in the name of each
TEMPORARY = re.compile(rb"\..+\.lcsync-[0-9a-f]{8}", re.DOTALL)
BACKUP_SUFFIX = b"~"
NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}  # what link(2) says where it can't


# --- sources ---


def open_source(path: str | bytes, *, dir_fd: int | None = None, follow: bool = True) -> int:
    """A descriptor of the regular file ``path`` (below ``dir_fd``) for reading; SourceError if there is none.

    ``follow=False`` refuses a symbolic link as the last component. Opening never waits for the other end of a fifo.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    with source_errors(path):
        fd = os.open(path, flags, dir_fd=dir_fd)
    kind = kind_of(os.fstat(fd).st_mode)
    if kind == "file":
        return fd
    os.close(fd)
    raise SourceError(path=printable(path), reason=f"is a {kind}, not a file")


def source_status(path: str | bytes) -> os.stat_result:
    """The status of the regular file ``path``, without opening it; SourceError if there is none."""
    with source_errors(path):
        info = os.stat(path)
    if (kind := kind_of(info.st_mode)) != "file":
        raise SourceError(path=printable(path), reason=f"is a {kind}, not a file")
    return info


def read_block_hashes(fd: int, length: int, block_bytes: int, progress: Callable[[int], None] | None = None) -> Tree:
    """Hash the ``length`` bytes of the open file, in a few threads; memory: 32 bytes a block, and their buffers.

    ``progress`` is called with the bytes done so far, in the calling thread; what it raises ends the reading.
    SourceError if the file has another length, or changes while it is read.
    """
    before = version(fd)
    if before.length != length:
        raise _changed(fd)
    step_bytes = max(STEP_BYTES, LANES_MAX * block_bytes)
    leaves = np.empty((block_count(length, block_bytes), HASH_BYTES), np.uint8)
    buffers: list[memoryview] = []

    def work(piece: range) -> None:
        buffer = buffers.pop() if buffers else memoryview(bytearray(min(step_bytes, length)))
        for offset in range(piece.start, max(piece.stop, 1), step_bytes):
            part = buffer[: length - offset]
            if read_into(fd, part, offset) < len(part):
                raise _changed(fd)
            hashes = hash_leaves(part, block_bytes)
            leaves[offset // block_bytes :][: len(hashes)] = hashes
        buffers.append(buffer)

    in_order(work, length, max(READ_BYTES, step_bytes), lambda piece, _: progress and progress(piece.stop))
    if version(fd) != before:
        raise _changed(fd)
    return Tree(length, block_bytes, leaves)


def _changed(fd: int) -> SourceError:
    return SourceError(path=fd_name(fd), reason="changed while it was read; run again")


class Version(NamedTuple):
    """What of a file's status changes whenever its content does."""

    length: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


def version(fd: int) -> Version:
    """The open file's version: equal before and after means that it did not change in between."""
    return version_of(os.fstat(fd))


def version_of(st: os.stat_result) -> Version:
    """The version that a status tells of."""
    return Version(st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino, st.st_dev)


def is_other(path: bytes, version: Version) -> bool:
    """Whether what is at ``path`` now, if anything, is another version."""
    try:
        return version_of(os.stat(path)) != version
    except OSError:
        return True


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset``; the number of bytes read, less only at the end of the file."""
    done = 0
    with source_errors(fd):
        while done < len(buffer) and (n := os.preadv(fd, [buffer[done:]], offset + done)):
            done += n
    return done


def read_start(fd: int, most: int) -> bytes:
    """The first ``most`` bytes of an open source, or all of it. SourceError."""
    with source_errors(fd):
        return os.pread(fd, most, 0)


def kind_of(mode: int) -> str:
    """What ``st_mode`` says that a thing is, in a word: ``file``, ``folder``, ``symbolic link`` ..."""
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")


# --- folders and destinations ---


def is_folder(path: str | bytes) -> bool:
    """Whether ``path`` leads to a folder, as far as one may look."""
    try:
        return stat.S_ISDIR(Path(os.fsdecode(path)).stat().st_mode)
    except OSError:
        return False


def open_folder(path: str | bytes, *, source: bool = False) -> int:
    """A descriptor of the folder that the user named. DestinationError, or SourceError for a ``source``."""
    with source_errors(path) if source else destination_errors(path, path):
        return os.open(path, FOLDER_FLAGS)


def open_beneath(root_fd: int, parts: tuple[bytes, ...], *, create: bool = False, source: bool = False) -> int:
    """A descriptor of the folder ``parts`` (from ``safe_relative``) below ``root_fd``, through no symbolic link.

    ``create`` makes the folders that are missing. DestinationError, or SourceError for a ``source``.
    """
    path = b"/".join(parts)
    with source_errors(path) if source else destination_errors(path, path):
        fd = os.dup(root_fd)
        for part in parts:
            with closing(fd) as above:
                try:
                    fd = os.open(part, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=above)
                except FileNotFoundError:
                    if not create:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=above)
                    fd = os.open(part, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=above)
    return fd


def names_in(folder_fd: int) -> list[bytes]:
    """The names in a source folder, in byte order."""
    with source_errors(folder_fd), os.scandir(folder_fd) as entries:
        return sorted(os.fsencode(entry.name) for entry in entries)


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Closes ``fd`` at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def free_bytes(fd: int) -> int | None:
    """What this user may still write where an open folder is; None where the file system does not count."""
    fs = os.fstatvfs(fd)
    return (fs.f_bavail if os.geteuid() else fs.f_bfree) * fs.f_frsize if fs.f_blocks else None


def open_old(path: str | bytes, *, dir_fd: int | None = None, shown: str | None = None) -> int | None:
    """A descriptor of the file that a Target of this path would replace, for reading.

    None if there is none, it may not be read, or it is a symbolic link: those are replaced, not followed.
    DestinationError if something is there that a file may not replace.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES):
            return None
        if error.errno == errno.ENXIO:
            raise DestinationError(path=printable(shown or path), reason=in_the_way("socket")) from None
        raise destination_error(shown or path, error) from None
    kind = kind_of(os.fstat(fd).st_mode)
    if kind == "file":
        return fd
    os.close(fd)
    raise DestinationError(path=printable(shown or path), reason=in_the_way(kind))


def resolve_destination(dest: str, base_name: bytes) -> str:
    """Where a file called ``base_name`` goes: into ``dest`` if that is a folder or ends with a slash, else to ``dest``.

    UnsafeName if ``base_name`` is no plain file name; DestinationError unless the folder exists.
    """
    (base,) = safe_relative(base_name)
    if not dest:
        raise DestinationError(path="''", reason="no destination; name a folder or a file")
    folder, slash, name = dest.rpartition("/")
    folder = folder + slash or "."
    if not name or is_folder(dest):
        folder, name = dest, os.fsdecode(base)
    os.close(open_folder(folder))
    return folder.rstrip("/") + "/" + name


def temporary_name(name: bytes) -> bytes:
    """A name that nothing has, for what will be ``name``; those of dead runs are found by TEMPORARY."""
    return b".%s.lcsync-%s" % (name[: COMPONENT_BYTES_MAX - 17], secrets.token_hex(4).encode())


def temporaries_of(name: bytes) -> re.Pattern[bytes]:
    """The names that ``temporary_name`` may give for it."""
    return re.compile(rb"\.%s\.lcsync-[0-9a-f]{8}" % re.escape(name[: COMPONENT_BYTES_MAX - 17]), re.DOTALL)


def lock(fd: int, wait: bool = True) -> bool:
    """Take a temporary file or folder for this run; False if it was removed, or is another run's (not ``wait``).

    Where the file system has no locks it is ours too, but nobody can tell that it is dead, and remove it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return wait
    return os.fstat(fd).st_nlink > 0


def keep_backup(name: bytes, dir_fd: int) -> None:
    """Give what is at ``name`` a second name with BACKUP_SUFFIX, or that alone where there are no hard links; OSError.

    What had that name before is gone.
    """
    backup = name + BACKUP_SUFFIX
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        with suppress(FileNotFoundError):
            os.unlink(backup, dir_fd=dir_fd)
        try:
            os.link(name, backup, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            os.rename(name, backup, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def sync_open_folder(fd: int) -> None:
    """Make the names in a folder durable; OSError."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing to do for a folder
            raise


class Target:
    """A file that is built beside its destination and renamed over it when it is whole.

    ``path`` is the destination (below ``dir_fd``, if given: then it must be one plain name). The file starts with what
    ``old_fd`` holds, sharing its blocks where the file system can, and has ``length`` bytes. Where it can't, it starts
    with ``else_fd``, if given: ``base_fd`` tells with which. ``go_on`` is called while data is copied, and may raise.
    ``need_bytes``, if the caller knows better than "all that the old file does not bring", is what will newly be
    written, for the check of free space. ``anything``: replace whatever is there, but for a folder. ``shown``: the
    path for messages. Use it as a context manager: leaving it without ``commit`` removes the temporary file.

    DestinationError, DiskFull.
    """

    fd = _dir_fd = -1
    _temp = b""

    def __init__(
        self,
        path: str | bytes,
        old_fd: int | None,
        length: int,
        *,
        dir_fd: int | None = None,
        need_bytes: int | None = None,
        else_fd: int | None = None,
        go_on: Callable[[], None] | None = None,
        anything: bool = False,
        shown: str | None = None,
    ) -> None:
        folder, slash, name = os.fsencode(path).rpartition(b"/")
        if dir_fd is not None and slash:
            raise ValueError("below dir_fd, the destination is one plain name")
        (self._name,) = safe_relative(name)
        self._path = path if shown is None else shown
        self.length = length
        self._dir_fd = open_folder(folder + slash or b".") if dir_fd is None else os.dup(dir_fd)
        try:
            with destination_errors(self._path):
                self._replaces = self._look_at_destination(anything)
                self._make_temporary()
                shared = old_fd is not None and copying.clone(old_fd, self.fd)
                self.base_fd = old_fd if shared or else_fd is None else else_fd
                self._start_from(self.base_fd, shared, need_bytes, go_on)
        except BaseException:
            self.abort()
            raise

    def _make_temporary(self) -> None:
        """A new file, locked: that says that it is in use. One that a sweep took away before that is made again."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        while self.fd < 0:
            self._temp = temporary_name(self._name)
            self.fd = os.open(self._temp, flags, 0o600, dir_fd=self._dir_fd)
            if not lock(self.fd):
                os.close(self.fd)
                self.fd = -1

    def _look_at_destination(self, anything: bool) -> os.stat_result | None:
        """The status of the file that will be replaced, if it is one."""
        try:
            here = os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        kind = kind_of(here.st_mode)
        if anything and kind not in ("file", "folder"):
            return None
        if kind == "symbolic link":  # replaced, unless it leads to a thing as /dev/stdout does
            with suppress(OSError):
                kind = kind_of(os.stat(self._name, dir_fd=self._dir_fd).st_mode)
            if kind in ("symbolic link", "file", "folder"):
                return None
        if kind != "file":
            raise DestinationError(path=printable(self._path), reason=in_the_way(kind))
        return here

    def _start_from(
        self, base_fd: int | None, shared: bool, need_bytes: int | None, go_on: Callable[[], None] | None
    ) -> None:
        old = os.fstat(base_fd) if base_fd is not None else None
        kept = min(old.st_size, self.length) if old else 0
        self._check_space(
            (self.length - kept if need_bytes is None else need_bytes)
            + (0 if shared or not old else min(old.st_blocks * 512, kept))
        )
        if base_fd is not None and not shared:
            copying.copy_data(base_fd, self.fd, kept, go_on)
        os.ftruncate(self.fd, self.length)
        # One mark for each granule that may hold data; the rest are holes. The file system is not asked (SEEK_DATA):
        # some FUSE ones answer without what waits in the page cache.
        self._granule_bytes = max(TOUCHED_BYTES_MIN, self.length // TOUCHED_MARKS_MAX)
        self._touched = bytearray(self.length // self._granule_bytes + 1)
        if kept:
            self._touch(0, kept)

    def _check_space(self, need: int) -> None:
        free = free_bytes(self._dir_fd)
        if free is not None and need > free:
            reason = f"needs {human_bytes(need)}, {human_bytes(free)} are free"
            raise DiskFull(path=printable(self._path), reason=reason)

    def _granules(self, offset: int, length: int) -> slice:
        if offset < 0 or offset + length > self.length:
            raise ValueError(f"{length} bytes at {offset} are outside of a file of {self.length}")
        return slice(offset // self._granule_bytes, (offset + length - 1) // self._granule_bytes + 1)

    def _touch(self, offset: int, length: int) -> None:
        where = self._granules(offset, length)
        self._touched[where] = b"\1" * (where.stop - where.start)

    def write_at(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``. Zeros where nothing was written yet leave a hole. ValueError outside of the file."""
        if not len(data):
            return
        flat = np.frombuffer(data, np.uint8)
        if not any(self._touched[self._granules(offset, len(flat))]) and not flat.any():
            return
        self._touch(offset, len(flat))
        with destination_errors(self._path):
            copying.write_all(self.fd, flat.data, offset)

    def read_at(self, length: int, offset: int) -> bytes:
        """``length`` bytes at ``offset``; fewer only at the end of the file."""
        buffer = bytearray(length)
        with memoryview(buffer) as view:
            done = read_into(self.fd, view, offset)
        return bytes(buffer[:done])

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset``, up to the end of the file."""
        read_into(self.fd, view, offset)

    def settle(self, offset: int, length: int) -> None:
        """A range is right: nothing to do, as the whole file goes to its place at once."""

    def copy_within(self, src_offset: int, dst_offset: int, length: int) -> None:
        """Copy a range of the file onto another one of the same length; they may overlap."""
        if not length or src_offset == dst_offset:
            return
        self._granules(src_offset, length)
        self._touch(dst_offset, length)
        with destination_errors(self._path):
            if abs(src_offset - dst_offset) >= length:
                copying.copy_range(self.fd, self.fd, src_offset, dst_offset, length)
                return
            starts = range(0, length, READ_BYTES)
            for start in starts if dst_offset < src_offset else reversed(starts):
                piece = self.read_at(min(READ_BYTES, length - start), src_offset + start)
                copying.write_all(self.fd, memoryview(piece), dst_offset + start)

    def commit(
        self,
        mode: int | None,
        mtime_ns: int | None,
        *,
        new_mode: int = 0o666,
        dress: Callable[[int], None] | None = None,
        backup: bool = False,
        sync_folder: bool = True,
    ) -> None:
        """Put the file in its place, durably: on return it survives a power cut.

        ``mode``: permission bits (never setuid, setgid or sticky); None: as the file replaced, or ``new_mode`` as umask
        lets it. ``mtime_ns``: None for now. ``dress`` gets the descriptor at the end, to set more of it. ``backup``
        keeps what is replaced. Without ``sync_folder``, it is the caller who makes the folder durable. On an error the
        old file is still in place, whole.
        """
        with destination_errors(self._path):
            if self._replaces:
                _give_to(self.fd, self._replaces)
            if mode is None:
                mode = self._replaces.st_mode if self._replaces else new_mode & ~_umask()
            os.fchmod(self.fd, mode & 0o777)
            if mtime_ns is not None:
                os.utime(self.fd, ns=(os.fstat(self.fd).st_atime_ns, mtime_ns))
            if dress:
                dress(self.fd)
            os.fsync(self.fd)
            if backup:
                keep_backup(self._name, self._dir_fd)
            os.rename(self._temp, self._name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
            self._temp = b""
            if sync_folder:
                sync_open_folder(self._dir_fd)
        self._close()

    def abort(self) -> None:
        """Remove the temporary file; nothing after ``commit`` or a first ``abort``."""
        if self._dir_fd >= 0 and self._temp:  # a signal may come when the file is there and its number not yet in `fd`
            with suppress(OSError):
                os.unlink(self._temp, dir_fd=self._dir_fd)
            self._temp = b""
        self._close()

    def _close(self) -> None:
        for fd in (self.fd, self._dir_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._dir_fd = -1

    def __del__(self) -> None:
        self.abort()  # a signal may come before the new Target has reached its `with`

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class InPlace:
    """The file open as ``old_fd``, being changed where it is: what is written is there at once, and for good.

    Use it as a Target; ``write_at`` may be called from several threads. DestinationError, DiskFull.
    """

    def __init__(self, path: str | bytes, old_fd: int, length: int) -> None:
        self._path = path
        self.length = length
        self._old_length = os.fstat(old_fd).st_size
        with destination_errors(path):
            self.fd = os.open(f"/proc/self/fd/{old_fd}", os.O_RDWR | os.O_CLOEXEC)

    def write_at(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``. Zeros become a hole where the file system can."""
        flat = np.frombuffer(data, np.uint8)
        if not flat.any() and (offset >= self._old_length or copying.punch_hole(self.fd, offset, len(flat))):
            return
        with destination_errors(self._path):
            copying.write_all(self.fd, flat.data, offset)

    def commit(self, mode: int | None, mtime_ns: int | None, *, dress: Callable[[int], None] | None = None) -> None:
        """Give the file its length, and make all durable; arguments as for a Target."""
        with destination_errors(self._path):
            os.ftruncate(self.fd, self.length)
            if mode is not None:
                os.fchmod(self.fd, mode & 0o777)
            if mtime_ns is not None:
                os.utime(self.fd, ns=(os.fstat(self.fd).st_atime_ns, mtime_ns))
            if dress:
                dress(self.fd)
            os.fsync(self.fd)

    def __enter__(self) -> InPlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


# --- how ---


def _give_to(fd: int, owner: os.stat_result) -> None:
    """Keep owner and group of the file that is replaced, as far as this process may."""
    here = os.fstat(fd)
    for uid, gid in ((owner.st_uid, owner.st_gid), (-1, owner.st_gid)):
        if (here.st_uid, here.st_gid) == (owner.st_uid, owner.st_gid):
            return
        with suppress(PermissionError):
            os.fchown(fd, uid, gid)
            return


def _umask() -> int:
    """This process's umask, without the moment of another one that os.umask() needs to read it."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o077


def in_the_way(kind: str) -> str:
    """The reason why a file can't be put where something of another kind is."""
    return f"is a {kind}; remove it, or choose another name"
