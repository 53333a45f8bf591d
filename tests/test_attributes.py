# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What is known of a thing, and what of that may be given to another one."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from trees import ROOT, needs_root

from lcsync import attributes
from lcsync.attributes import Entry, Keep, Wanted, differences, dress, open_place, place, wanted

FILE = Entry(b"f", stat.S_IFREG | 0o6755, 0, 10**18, 1, 1, b"daemon", b"daemon")
IDS = Keep(perms=True, owner=True, group=True)


def status(path: Path, mode: int = 0o644, uid: int = 0, gid: int = 0) -> os.stat_result:
    path.touch()
    path.chmod(mode)
    if ROOT:
        os.chown(path, uid, gid)
        path.chmod(mode)
    return path.lstat()


@needs_root
@pytest.mark.parametrize(
    ("entry", "keep", "uid", "gid"),
    [
        (replace(FILE, uid=4711, gid=4712), IDS, 1, 1),  # the name decides
        (replace(FILE, uid=4711, gid=4712), replace(IDS, numeric_ids=True), 4711, 4712),
        (replace(FILE, user=b"nobody by that name", group=b"\xff"), IDS, 1, 1),
        (replace(FILE, uid=0, gid=0), IDS, 0, 0),  # root is root, whatever it is called
        (FILE, Keep(perms=True), None, None),
    ],
)
def test_owners_go_by_name(tmp_path: Path, entry: Entry, keep: Keep, uid: int | None, gid: int | None) -> None:
    if keep.numeric_ids:
        entry = replace(entry, user=b"", group=b"")  # as attributes.entry leaves them
    want = wanted(entry, keep, status(tmp_path / "f"))
    assert (want.uid, want.gid) == (uid, gid)


@needs_root
@pytest.mark.parametrize(
    ("keep", "uid", "gid", "mode"),
    [
        (IDS, 0, 0, 0o6755),
        (Keep(perms=True), 0, 0, 0o755),
        (Keep(perms=True), 1, 0, 0o4755),
        (Keep(perms=True), 0, 1, 0o2755),
        (Keep(perms=True, group=True), 0, 0, 0o2755),
        (Keep(owner=True), 0, 0, None),
    ],
)
def test_set_id_bits_come_only_with_their_owner(
    tmp_path: Path, keep: Keep, uid: int, gid: int, mode: int | None
) -> None:
    assert wanted(FILE, keep, status(tmp_path / "f", 0o644, uid, gid)).mode == mode


def test_set_id_bits_take_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = status(tmp_path / "f", 0o644, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(os, "getegid", lambda: 1)
    monkeypatch.setattr(os, "getgroups", lambda: [1, 2])
    assert wanted(FILE, IDS, here) == Wanted(0o755, None, 1, None)
    assert wanted(replace(FILE, gid=2, group=b""), IDS, here).gid == 2
    assert wanted(replace(FILE, gid=3, group=b""), IDS, here).gid is None
    assert not Keep(devices=True).takes(stat.S_IFCHR)


def test_kinds_that_are_copied() -> None:
    kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK)
    assert [Keep().takes(kind) for kind in kinds] == [True, True, False, False, False]
    assert all(Keep(links=True, specials=True).takes(kind) for kind in kinds)
    assert Keep(devices=True).takes(stat.S_IFBLK) is ROOT


def test_what_differs_is_what_is_set(tmp_path: Path) -> None:
    keep = Keep(perms=True, times=True, xattrs=True)
    here = status(tmp_path / "f")
    os.setxattr(tmp_path / "f", "user.old", b"1")
    new = replace(FILE, mode=stat.S_IFREG | 0o440, xattrs=((b"user.new", b"2"),))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    assert differences(fd, new, keep, here) == ["permissions", "times", "attributes"]
    dress(fd, new, keep)
    assert differences(fd, new, keep, os.fstat(fd)) == []
    dress(fd, new, keep)
    os.close(fd)
    after = (tmp_path / "f").lstat()
    assert (stat.S_IMODE(after.st_mode), after.st_mtime_ns, after.st_atime_ns) == (0o440, 10**18, here.st_atime_ns)
    assert os.listxattr(tmp_path / "f") == ["user.new"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_place_is_the_thing_itself(tmp_path: Path, kind: str) -> None:
    """Of what can't be opened: a link is not followed, whoever puts another one in its place."""
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "fifo", 0o600)
    dir_fd = os.open(tmp_path, os.O_RDONLY)
    fd = open_place(os.fsencode(kind), dir_fd)
    (tmp_path / kind).rename(tmp_path / "moved")
    (tmp_path / kind).symlink_to("target")
    before = (tmp_path / "target").stat()
    mode = stat.S_IFMT((tmp_path / "moved").lstat().st_mode)
    dress(place(fd), replace(FILE, mode=mode | 0o640), Keep(perms=True, times=True))
    os.close(fd)
    os.close(dir_fd)
    assert (tmp_path / "target").stat() == before
    assert (tmp_path / "moved").lstat().st_mtime_ns == 10**18
    assert kind == "link" or stat.S_IMODE((tmp_path / "moved").lstat().st_mode) == 0o640


def test_an_entry_has_what_was_asked_for(tmp_path: Path) -> None:
    here = status(tmp_path / "f", 0o640)
    os.setxattr(tmp_path / "f", "user.b", b"2")
    os.setxattr(tmp_path / "f", "user.a", b"1")
    bare = attributes.entry(here, b"f", Keep(), "")
    assert bare == Entry(b"f", stat.S_IFREG | 0o640, 0, here.st_mtime_ns, here.st_uid, here.st_gid)
    full = attributes.entry(here, b"f", Keep(owner=True, group=True, xattrs=True), str(tmp_path / "f"))
    assert full.xattrs == ((b"user.a", b"1"), (b"user.b", b"2"))
    assert (full.user, full.group) == (b"root", b"root") or not ROOT
    numbers = attributes.entry(here, b"f", Keep(owner=True, group=True, numeric_ids=True), "")
    assert (numbers.user, numbers.group) == (b"", b"")
    assert attributes.entry(Path("/dev/null").stat(), b"n", Keep(), "").device == (1, 3)
