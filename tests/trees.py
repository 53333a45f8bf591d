# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Folders with everything in them, and whether two of them are equal: by our own eyes, and by rsync's."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = os.geteuid() == 0
needs_rsync = pytest.mark.skipif(not shutil.which("rsync") and os.environ.get("CI") != "true", reason="no rsync here")
needs_root = pytest.mark.skipif(not ROOT and os.environ.get("CI") != "true", reason="owners and devices take root")
ODD_NAMES = (
    b"new\nline",
    b"\xff\xfe",
    b"-rf",
    b" ",
    b"back\\slash",
    b"*[?]",
    b"~",
    b"x" * 255,
    "ü€".encode(),
    b"\x1b[2J",
)


def acl(user: int, mode: int, mask: int, extra: int = 7) -> bytes:
    """A POSIX ACL as the kernel keeps it (acl(5)): one more user, with the bits ``extra``."""
    entries = [
        (1, mode >> 6 & 7, -1),  # ACL_USER_OBJ
        (2, extra, user),  # ACL_USER
        (4, mode >> 3 & 7, -1),  # ACL_GROUP_OBJ
        (16, mask, -1),  # ACL_MASK
        (32, mode & 7, -1),  # ACL_OTHER
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def make_everything(top: Path) -> None:
    """One of every kind, with names and modes that break things. As root, of other owners too, and devices."""
    top.mkdir()
    below = os.fsencode(top)
    (top / "empty folder").mkdir()
    (top / "empty").touch()
    (top / "folder" / "in").mkdir(parents=True)
    (top / "folder" / "in" / "file").write_bytes(os.urandom(100_000))
    (top / "large").write_bytes(os.urandom(5 << 20))
    with (top / "sparse").open("wb") as f:
        f.write(b"head")
        f.seek(8 << 20)
        f.write(b"tail")
        f.truncate(9 << 20)
    for name in ODD_NAMES:
        Path(os.fsdecode(below + b"/" + name)).write_bytes(b"odd " + name)
    (top / os.fsdecode(b"odd\xf0folder") / os.fsdecode(b"\n")).mkdir(parents=True)
    deep = top.joinpath(*["deep"] * 100)
    deep.mkdir(parents=True)
    (deep / "leaf").touch()
    for mode in (0o000, 0o444, 0o777, 0o4755, 0o2711, 0o6700, 0o1644):
        path = top / f"mode {mode:o}"
        path.write_bytes(b"%o" % mode)
        path.chmod(mode)
    for mode in (0o555, 0o1777, 0o2775, 0o700) + (0o000,) * ROOT:
        path = top / f"folder {mode:o}"
        path.mkdir()
        (path / "in").write_bytes(b"in")
        path.chmod(mode)
    for name, target in (
        ("dangling", "nowhere"),
        ("outside", "/etc/passwd"),
        ("to folder", "folder"),
        ("long", "y/" * 2000),
    ):
        (top / f"link {name}").symlink_to(target)
    (top / "folder" / "link up").symlink_to("..")
    os.link(top / "large", top / "folder" / "large again")
    os.link(top / "large", top / "a third large")
    os.link(top / "link dangling", top / "folder" / "link again", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o622)
    os.link(top / "fifo", top / "folder" / "fifo again")
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    if ROOT:
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / "loop", stat.S_IFBLK | 0o640, os.makedev(7, 200))
        for name, uid, gid in (("large", 1, 1), ("mode 0", 12345, 54321), ("link long", 1, 12345), ("null", 2, 3)):
            os.chown(top / name, uid, gid, follow_symlinks=False)
        os.chown(top / "folder 2775", 1, 2)
        (top / "folder 2775").chmod(0o2775)
        (top / "owned setuid").touch()
        os.chown(top / "owned setuid", 1, 2)
        (top / "owned setuid").chmod(0o6755)
        os.setxattr(top / "link outside", "trusted.link", b"of root", follow_symlinks=False)
        os.setxattr(top / "folder", "trusted.folder", b"\0\xff")
        os.setxattr(
            top / "folder" / "in" / "file", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12)
        )
    os.setxattr(top / "large", "user.empty", b"")
    os.setxattr(top / "empty folder", "user.\N{SNOWMAN}", bytes(range(256)))
    os.setxattr(top / "mode 777", "system.posix_acl_access", acl(1, 0o777, 7))
    os.setxattr(top / "empty", "system.posix_acl_access", acl(3, 0o640, 4, 6))
    os.setxattr(top / "folder" / "in", "system.posix_acl_default", acl(1, 0o750, 5))
    for name, time_ns in (("empty", 1), ("large", 10**18 + 123_456_789), ("fifo", -(10**18)), ("folder", 4 * 10**18)):
        os.utime(top / name, ns=(time_ns, time_ns))
    os.utime(top / "link dangling", ns=(5, 10**17 + 7), follow_symlinks=False)
    os.utime(top, ns=(0, 10**18 + 1))


def everything_about(top: Path) -> dict[str, tuple[object, ...]]:
    """All of a folder that a copy shall have too, by path; of files with several names, which those are."""
    found: dict[str, tuple[object, ...]] = {}
    names: dict[int, list[str]] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        st, name = path.lstat(), str(path.relative_to(top))
        size, content, target = (st.st_size, path.read_bytes(), "") if stat.S_ISREG(st.st_mode) else (0, b"", "")
        if path.is_symlink():
            target = os.readlink(path)
        listed = os.listxattr(path, follow_symlinks=False)
        xattrs = {each: os.getxattr(path, each, follow_symlinks=False) for each in listed}
        owner = (st.st_uid, st.st_gid)
        found[name] = (
            oct(st.st_mode),
            owner,
            st.st_mtime_ns,
            size,
            st.st_rdev,
            target,
            sorted(xattrs.items()),
            content,
        )
        if not stat.S_ISDIR(st.st_mode):
            names.setdefault(st.st_ino, []).append(name)
    for same in names.values():
        for name in same:
            found[name] += (same,)
    return found


def rsync_finds(source: Path, destination: Path, *options: str) -> list[str]:
    """What rsync would change, in its words, with all it can look at."""
    command = ["rsync", "-aHAX", "--checksum", "--dry-run", "--itemize-changes", "--delete", *options]
    done = subprocess.run([*command, f"{source}/", f"{destination}/"], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def open_up(top: Path) -> None:
    """Let whoever cleans up do so."""
    for path in [top, *top.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
