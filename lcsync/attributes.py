# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What there is to know of a file, folder, link or device besides its content; and how it is set.

All is set through one open descriptor, so no path is resolved twice. A descriptor that was opened with O_PATH, as it
must be for symbolic links, fifos, sockets and devices, stands for its file by its name in /proc/self/fd.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from lcsync.oserrors import source_errors

ACCESS_ACL = b"system.posix_acl_access"  # acl(5), as the kernel keeps it
DEFAULT_ACL = b"system.posix_acl_default"
ACLS = (ACCESS_ACL, DEFAULT_ACL)
SET_ID = stat.S_ISUID | stat.S_ISGID
PLAIN = 0o777 | stat.S_ISVTX
UNABLE = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.E2BIG, errno.ERANGE)  # of attributes alone
NOT_THERE = (errno.EOPNOTSUPP, errno.ENOSYS)  # a file system without extended attributes


@dataclass(frozen=True)
class Keep:
    """What of the source is kept, by the names of rsync's options. ``acls`` is of no use without ``perms``."""

    links: bool = False
    perms: bool = False
    times: bool = False
    owner: bool = False
    group: bool = False
    devices: bool = False
    specials: bool = False
    hard_links: bool = False
    acls: bool = False
    xattrs: bool = False
    numeric_ids: bool = False

    def takes(self, mode: int) -> bool:
        """Whether things of this kind (``st_mode``) are copied at all. Devices are root's to make."""
        if stat.S_ISLNK(mode):
            return self.links
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            return self.specials
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            return self.devices and os.geteuid() == 0
        return True


NOTHING = Keep()


@dataclass(frozen=True)
class Entry:
    """One thing in a folder, whatever its kind. All names are byte strings; ``path`` is relative to the top."""

    path: bytes
    mode: int  # st_mode: kind and permission bits
    size: int  # bytes of a regular file
    mtime_ns: int
    uid: int
    gid: int
    user: bytes = b""  # the names of uid and gid, if they are asked for and have one
    group: bytes = b""
    target: bytes = b""  # of a symbolic link
    device: tuple[int, int] = (0, 0)  # major and minor number of a device
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # in byte order; ACLs are among them
    link_group: int = 0  # entries of one number, unless it is 0, are names of one file


def entry(
    st: os.stat_result, path: bytes, keep: Keep, at: int | str, target: bytes = b"", link_group: int = 0
) -> Entry:
    """The entry for a thing of this status. ``at``, from ``place`` or a path, is asked for what ``keep`` adds to it.

    SourceError.
    """
    names = keep.owner and not keep.numeric_ids, keep.group and not keep.numeric_ids
    found: tuple[tuple[bytes, bytes], ...] = ()
    if keep.acls or keep.xattrs:
        with source_errors(path):
            found = tuple(sorted(xattrs(at, st.st_mode, keep).items()))
    return Entry(
        path,
        st.st_mode,
        st.st_size if stat.S_ISREG(st.st_mode) else 0,
        st.st_mtime_ns,
        st.st_uid,
        st.st_gid,
        user_name(st.st_uid) if names[0] else b"",
        group_name(st.st_gid) if names[1] else b"",
        target,
        device_numbers(st),
        found,
        link_group,
    )


def device_numbers(st: os.stat_result) -> tuple[int, int]:
    """Major and minor number of a device; zeros of all else."""
    if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        return os.major(st.st_rdev), os.minor(st.st_rdev)
    return 0, 0


def open_place(name: bytes, dir_fd: int) -> int:
    """A descriptor (O_PATH) of whatever ``name`` in a folder is, a symbolic link itself; OSError."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def place(fd: int) -> str:
    """The path that means what the descriptor means, for calls that take no descriptor of O_PATH."""
    return f"/proc/self/fd/{fd}"


def xattrs(at: int | str, mode: int, keep: Keep) -> dict[bytes, bytes]:
    """The extended attributes that ``keep`` means, those that only root may see for root alone. OSError."""
    if not (keep.acls or keep.xattrs):
        return {}
    try:
        names = map(os.fsencode, os.listxattr(at))
        return {name: os.getxattr(at, name) for name in names if _meant(name, mode, keep)}
    except OSError as error:
        if error.errno in NOT_THERE:
            return {}
        raise


def _meant(name: bytes, mode: int, keep: Keep) -> bool:
    if name in ACLS:
        return keep.acls and not stat.S_ISLNK(mode)
    return keep.xattrs and (name.startswith(b"user.") if os.geteuid() else not name.startswith(b"system."))


@cache
def user_name(uid: int) -> bytes:
    """The name of a user here; empty if he has none."""
    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return b""


@cache
def group_name(gid: int) -> bytes:
    """The name of a group here; empty if it has none."""
    try:
        return os.fsencode(grp.getgrgid(gid).gr_name)
    except KeyError:
        return b""


@cache
def uid_here(user: bytes, uid: int) -> int:
    """Who the user of that name is here; root is root, and a name unknown here means the number."""
    try:
        return pwd.getpwnam(os.fsdecode(user)).pw_uid if user and uid else uid
    except KeyError:
        return uid


@cache
def gid_here(group: bytes, gid: int) -> int:
    """The same of a group."""
    try:
        return grp.getgrnam(os.fsdecode(group)).gr_gid if group and gid else gid
    except KeyError:
        return gid


@dataclass(frozen=True)
class Wanted:
    """How a thing shall be here; None: as it is."""

    mode: int | None  # permission bits
    uid: int | None
    gid: int | None
    mtime_ns: int | None


def wanted(entry: Entry, keep: Keep, here: os.stat_result) -> Wanted:
    """What ``keep`` asks for a thing that has status ``here``, as far as this process may set it.

    The set-user-ID and set-group-ID bits come only by root, and only where the file has the owner, or the group, of
    the source: else they would give the rights of another one.
    """
    root = os.geteuid() == 0
    uid, gid = uid_here(entry.user, entry.uid), gid_here(entry.group, entry.gid)
    chown = keep.owner and root
    chgrp = keep.group and (root or gid == os.getegid() or gid in os.getgroups())
    bits = entry.mode & PLAIN
    if root and (chown or here.st_uid == uid):
        bits |= entry.mode & stat.S_ISUID
    if root and (chgrp or here.st_gid == gid):
        bits |= entry.mode & stat.S_ISGID
    return Wanted(
        bits if keep.perms and not stat.S_ISLNK(entry.mode) else None,
        uid if chown else None,
        gid if chgrp else None,
        entry.mtime_ns if keep.times else None,
    )


def same(source: os.stat_result, here: os.stat_result, keep: Keep) -> bool:
    """Whether two things of this machine differ in nothing that ``keep`` asks, as far as their status alone can say."""
    return not (
        keep.acls
        or keep.xattrs
        or (keep.perms and source.st_mode != here.st_mode)
        or (keep.times and source.st_mtime_ns != here.st_mtime_ns)
        or (keep.owner and source.st_uid != here.st_uid)
        or (keep.group and source.st_gid != here.st_gid)
    )


def differences(at: int | str, entry: Entry, keep: Keep, here: os.stat_result) -> list[str]:
    """In words, what ``dress`` would change of a thing that has status ``here``; OSError."""
    want = wanted(entry, keep, here)
    found = [
        word
        for word, there, asked in (
            ("owner", here.st_uid, want.uid),
            ("group", here.st_gid, want.gid),
            ("permissions", stat.S_IMODE(here.st_mode), want.mode),
            ("times", here.st_mtime_ns, want.mtime_ns),
        )
        if asked is not None and asked != there
    ]
    if keep.acls or keep.xattrs:
        old, new = xattrs(at, here.st_mode, keep), dict(entry.xattrs)
        changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        found += ["ACL"] * bool(changed & {*ACLS}) + ["attributes"] * bool(changed - {*ACLS})
    return found


def dress(at: int | str, entry: Entry, keep: Keep) -> None:
    """Give the thing at ``at`` (a descriptor, or ``place`` of one) all that ``keep`` asks.

    The owner goes first, since a new one clears set-user-ID bits and capabilities; the time last. NotSet, once all else
    is set, if the file system or the rights of this process allow some of it to no one; else OSError.
    """
    here = os.stat(at)
    want = wanted(entry, keep, here)
    uid, gid = here.st_uid if want.uid is None else want.uid, here.st_gid if want.gid is None else want.gid
    failed: list[tuple[str, OSError]] = []
    bits = want.mode
    if (uid, gid) != (here.st_uid, here.st_gid) and not _done("owner", failed, os.chown, at, uid, gid) and bits:
        bits &= ~SET_ID
    _done("attributes", failed, _set_xattrs, at, entry, keep, here)
    if bits is not None and bits != stat.S_IMODE(os.stat(at).st_mode):
        _done("permissions", failed, os.chmod, at, bits)
    if want.mtime_ns is not None and want.mtime_ns != here.st_mtime_ns:
        os.utime(at, ns=(here.st_atime_ns, want.mtime_ns))
    if failed:
        raise NotSet(failed)


class NotSet(Exception):
    """Which attributes could not be set, and why."""

    def __init__(self, failed: list[tuple[str, OSError]]) -> None:
        super().__init__("; ".join(f"{what}: {(error.strerror or str(error)).lower()}" for what, error in failed))


def _done(what: str, failed: list[tuple[str, OSError]], call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        failed.append((what, error))
        return False
    return True


def _set_xattrs(at: int | str, entry: Entry, keep: Keep, here: os.stat_result) -> None:
    if not (keep.acls or keep.xattrs):
        return
    old, new = xattrs(at, here.st_mode, keep), dict(entry.xattrs)
    if old == new:
        return
    closed = os.geteuid() and here.st_uid == os.geteuid() and not here.st_mode & stat.S_IWUSR
    if closed and not stat.S_ISLNK(here.st_mode):  # user.* asks for leave to write
        os.chmod(at, stat.S_IMODE(here.st_mode) | stat.S_IWUSR)
    try:
        for name in old.keys() - new.keys():
            os.removexattr(at, name)
        for name, value in new.items():
            if old.get(name) != value and _meant(name, here.st_mode, keep):
                os.setxattr(at, name, value)
    finally:
        if closed and not stat.S_ISLNK(here.st_mode):
            os.chmod(at, stat.S_IMODE(here.st_mode))
