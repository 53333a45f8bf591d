# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Folders of a destination: what is made, replaced and removed in them, always below one open descriptor."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lcsync import files
from lcsync.attributes import open_place, place
from lcsync.errors import DestinationError
from lcsync.oserrors import destination_error, destination_errors
from lcsync.paths import plain_name, printable

Identity = tuple[int, int]  # device and inode: the same file, folder or link, whatever its name


def identity(st: os.stat_result) -> Identity:
    """What a thing keeps when it is renamed."""
    return st.st_dev, st.st_ino


class Folder:
    """A folder of the destination, open. Use it as a context manager; on leaving, what was changed in it is durable.

    A folder of this user's that denies him something is opened for him meanwhile. Without ``durable`` nothing is waited
    for on leaving. UnsafeName of what is no plain name, DestinationError, DiskFull.
    """

    def __init__(self, root_fd: int, parts: tuple[bytes, ...], shown: str, *, durable: bool = True) -> None:
        for part in parts:
            plain_name(part)
        self.shown = shown
        self._durable = durable
        self._mode: int | None = None  # to be given back
        self._changed = False
        self._staging: tuple[bytes, int] | None = None
        with files.closing(files.open_beneath(root_fd, parts[:-1])) as above, destination_errors(shown, shown):
            self.fd = _open(parts[-1], above) if parts else os.dup(above)
        try:
            self._allow(stat.S_IRUSR | stat.S_IXUSR)
        except BaseException:
            os.close(self.fd)
            raise

    def names(self) -> list[bytes]:
        """All names in it, in no order."""
        with destination_errors(self.shown), os.scandir(self.fd) as found:
            return [os.fsencode(each.name) for each in found]

    def status(self, name: bytes) -> os.stat_result | None:
        """The status of what has that name, a symbolic link's own; None if nothing has."""
        try:
            return os.stat(plain_name(name), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise destination_error(self.path(name), error) from None

    def path(self, name: bytes) -> str:
        """The path of a name in it, for messages."""
        return f"{self.shown}/{os.fsdecode(name)}"

    def change(self) -> None:
        """To be called before anything in it is made, renamed or removed."""
        self._changed = True
        self._allow(stat.S_IRWXU)

    def _allow(self, bits: int) -> None:
        here = os.fstat(self.fd)
        if os.geteuid() and here.st_uid == os.geteuid() and bits & ~here.st_mode:
            with destination_errors(self.shown):
                os.fchmod(self.fd, stat.S_IMODE(here.st_mode) | bits)
            if self._mode is None:
                self._mode = stat.S_IMODE(here.st_mode)

    def make_folder(self, name: bytes, mode: int) -> None:
        """A new folder, with ``mode`` as umask lets it, and all rights for its owner."""
        self.change()
        with destination_errors(self.path(name)):
            os.mkdir(plain_name(name), mode & 0o777 | stat.S_IRWXU, dir_fd=self.fd)

    def put(self, name: bytes, make: Callable[[bytes, int], object], *, backup: bool = False) -> None:
        """Let ``make`` make something by a name in a folder, and put it in the place of what has ``name``, if any.

        At any moment, what was there before or what is new has the name. A folder is not replaced.
        """
        plain_name(name)
        self.change()
        with destination_errors(self.path(name)):
            staging_fd = self._stage()[1]
            with suppress(FileNotFoundError):  # of one that failed
                os.unlink(b"new", dir_fd=staging_fd)
            make(b"new", staging_fd)
            if backup:
                files.keep_backup(name, self.fd)
            os.rename(b"new", name, src_dir_fd=staging_fd, dst_dir_fd=self.fd)

    def _stage(self) -> tuple[bytes, int]:
        """A folder of this run's own beside what it makes, locked as temporary files are."""
        while self._staging is None:
            name = files.temporary_name(b"folder")
            os.mkdir(name, 0o700, dir_fd=self.fd)
            fd = os.open(name, files.FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=self.fd)
            self._staging = name, fd
            if not files.lock(fd):
                os.close(fd)
                self._staging = None
        return self._staging

    def sweep(self, names: Iterable[bytes]) -> int:
        """Remove those of ``names`` that are temporaries of dead runs; returns how many. A living run holds a lock."""
        swept = 0
        for name in names:
            if not files.TEMPORARY.fullmatch(name):
                continue
            with suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
                with files.closing(fd):
                    here = os.fstat(fd)
                    if not files.lock(fd, wait=False) or identity(here) != _identity_of(name, self.fd):
                        continue
                    self.change()
                    if stat.S_ISREG(here.st_mode):
                        os.unlink(name, dir_fd=self.fd)
                    elif stat.S_ISDIR(here.st_mode):
                        with suppress(FileNotFoundError):
                            os.unlink(b"new", dir_fd=fd)
                        os.rmdir(name, dir_fd=self.fd)
                    swept += 1
        return swept

    def living(self, name: bytes) -> bool:
        """Whether a name is that of a temporary which a run holds."""
        if not files.TEMPORARY.fullmatch(name):
            return False
        with suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
            with files.closing(fd):
                return not files.lock(fd, wait=False)
        return False

    def close(self) -> None:
        """Make durable what was changed, and give back the mode that it had."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        with files.closing(fd), destination_errors(self.shown):
            try:
                if self._staging:
                    name, staging_fd = self._staging
                    with files.closing(staging_fd), suppress(FileNotFoundError):
                        os.unlink(b"new", dir_fd=staging_fd)
                    os.rmdir(name, dir_fd=fd)
                if self._changed and self._durable:
                    files.sync_open_folder(fd)
            finally:
                if self._mode is not None:
                    os.fchmod(fd, self._mode)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(name: bytes, dir_fd: int) -> int:
    flags = files.FOLDER_FLAGS | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        with files.closing(open_place(name, dir_fd)) as fd:
            here = os.fstat(fd)
            if here.st_uid != os.geteuid() or not stat.S_ISDIR(here.st_mode):
                raise
            os.chmod(place(fd), stat.S_IMODE(here.st_mode) | stat.S_IRUSR)
            try:
                opened = os.open(place(fd), files.FOLDER_FLAGS)
            finally:
                os.chmod(place(fd), stat.S_IMODE(here.st_mode))
            return opened


def _identity_of(name: bytes, dir_fd: int) -> Identity:
    return identity(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))


# --- removing ---

Spared = Callable[[bytes, bool], bool]  # path and whether it is a folder
Said = Callable[[bytes], object]


def remove(
    folder: Folder, name: bytes, path: bytes, *, spared: Spared, said: Said, dry_run: bool = False, backup: bool = False
) -> bool:
    """Remove what has ``name`` in a folder, and all below it; whether all of it is gone, or would be in a dry run.

    ``path`` is the path of ``name`` for ``spared``, which says of each what must stay, and with it the folders above,
    and for ``said``, which hears what goes. ``backup`` renames what is no folder. No symbolic link is followed, and no
    mount point is entered: those stay. DestinationError.
    """
    here = folder.status(name)
    if here is None or not stat.S_ISDIR(here.st_mode):
        return here is None or _remove_file(folder, name, path, spared, said, dry_run, backup)
    if spared(path, True):
        return False
    todo: list[tuple[tuple[bytes, ...], bool]] = [((name,), False)]
    stay: set[tuple[bytes, ...]] = set()
    while todo:
        parts, emptied = todo.pop()
        path_here = b"/".join((path, *parts[1:]))
        shown = "/".join((folder.shown, *map(os.fsdecode, parts)))
        if emptied:
            if parts not in stay:
                said(path_here + b"/")
                if not dry_run:
                    with Folder(folder.fd, parts[:-1], shown.rpartition("/")[0], durable=False) as above:
                        remove_empty(above, parts[-1])
            continue
        with Folder(folder.fd, parts, shown, durable=False) as below:
            if _mount(below.fd) != _mount(folder.fd):
                raise DestinationError(path=printable(shown), reason="is a mount point; unmount it first")
            todo.append((parts, True))
            for each in sorted(below.names(), reverse=True):
                path_each, status = path_here + b"/" + each, below.status(each)
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode) and not spared(path_each, True):
                    todo.append(((*parts, each), False))
                elif stat.S_ISDIR(status.st_mode) or (
                    not _remove_file(below, each, path_each, spared, said, dry_run, backup) or backup
                ):
                    stay.update(parts[:i] for i in range(1, len(parts) + 1))
    return not stay


def _remove_file(
    folder: Folder, name: bytes, path: bytes, spared: Spared, said: Said, dry_run: bool, backup: bool
) -> bool:
    """Remove what is no folder; whether it may be."""
    if spared(path, False):
        return False
    said(path)
    if not dry_run:
        _remove_one(folder, name, backup)
    return True


def _remove_one(parent: Folder, name: bytes, backup: bool) -> None:
    parent.change()
    with destination_errors(parent.path(name)):
        if backup:
            os.rename(name, name + files.BACKUP_SUFFIX, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        else:
            os.unlink(name, dir_fd=parent.fd)


def _mount(fd: int) -> bytes:
    """The number of the mount that an open folder is on: another one below it leads out of the destination."""
    with suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_bytes().splitlines():
            if line.startswith(b"mnt_id:"):
                return line
    return b"device %d" % os.fstat(fd).st_dev


def is_empty(folder: Folder, name: bytes) -> bool:
    """Whether the folder ``name`` in a folder has nothing in it."""
    with Folder(folder.fd, (name,), folder.path(name)) as below, os.scandir(below.fd) as found:
        return next(found, None) is None


def remove_empty(folder: Folder, name: bytes) -> bool:
    """Remove the folder ``name`` if nothing is in it."""
    folder.change()
    with destination_errors(folder.path(name)):
        try:
            os.rmdir(name, dir_fd=folder.fd)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
    return True
