# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Folders of a destination: nothing outside of them is reached, and nothing of a living run is taken away."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcsync import files
from lcsync.errors import DestinationError, UnsafeName
from lcsync.folders import Folder, remove


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top").mkdir()
    (tmp_path / "precious").write_text("precious")
    with files.closing(files.open_folder(str(tmp_path / "top"))) as fd:
        yield fd
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"../precious", b"/etc/passwd", b"a/b", b"a/../../precious", b"a\0b"]
)
def test_no_name_leads_out(root: int, name: bytes) -> None:
    with Folder(root, (), "top") as top:
        top.make_folder(b"a", 0o700)
        for call in (
            lambda: top.status(name),
            lambda: top.make_folder(name, 0o700),
            lambda: top.put(name, lambda new, fd: os.symlink("x", new, dir_fd=fd)),
            lambda: remove(top, name, name, spared=lambda path, folder: False, said=lambda path: None),
            lambda: Folder(root, (name,), "x"),
            lambda: Folder(root, (b"a", name), "x"),
        ):
            with pytest.raises(UnsafeName):
                call()
        assert top.names() == [b"a"]


def test_what_is_put_takes_the_place_at_once(root: int, tmp_path: Path) -> None:
    top_path = tmp_path / "top"
    (top_path / "x").write_text("old")
    with Folder(root, (), "top") as top:

        def make(new: bytes, dir_fd: int) -> None:
            assert (top_path / "x").read_text() == "old"
            os.symlink("new", new, dir_fd=dir_fd)

        top.put(b"x", make)
        assert os.readlink(top_path / "x") == "new"
        top.put(b"x", make_nothing := lambda new, dir_fd: os.mkfifo(new, dir_fd=dir_fd), backup=True)
        top.put(b"y", make_nothing)
    assert sorted(os.listdir(top_path)) == ["x", "x~", "y"]


def test_what_can_not_be_put_leaves_what_was_there(root: int, tmp_path: Path) -> None:
    (tmp_path / "top" / "full" / "x").mkdir(parents=True)
    with Folder(root, (), "top") as top:
        with pytest.raises(DestinationError, match="top/full: is a folder"):
            top.put(b"full", lambda new, fd: os.symlink("x", new, dir_fd=fd))
        top.put(b"other", lambda new, fd: os.symlink("x", new, dir_fd=fd))
    assert sorted(os.listdir(tmp_path / "top")) == ["full", "other"]


def test_only_what_nobody_holds_is_swept(root: int, tmp_path: Path) -> None:
    top_path = tmp_path / "top"
    held, dead, no_file = ".a.lcsync-00000000", ".b.lcsync-00000000", ".c.lcsync-00000000"
    (top_path / held).touch()
    (top_path / dead).touch()
    (top_path / no_file).symlink_to("../precious")
    with Folder(root, (), "top") as top, (top_path / held).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert top.living(os.fsencode(held)) and not top.living(os.fsencode(dead))
        assert top.sweep(top.names()) == 1
    assert sorted(os.listdir(top_path)) == [held, no_file]


def test_a_temporary_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between making and locking, in which another run takes it for a dead one."""
    swept = []

    def lock_late(fd: int, wait: bool = True) -> bool:
        if not swept:
            (name,) = os.listdir(tmp_path)
            swept.append(name)
            os.unlink(tmp_path / name)
        return lock(fd, wait)

    lock = files.lock
    monkeypatch.setattr(files, "lock", lock_late)
    with files.Target(str(tmp_path / "f"), None, 3) as target:
        target.write_at(b"abc", 0)
        target.commit(None, None)
    assert swept and (tmp_path / "f").read_bytes() == b"abc"


def test_two_runs_do_not_take_each_others_folders_for_dead(root: int, tmp_path: Path) -> None:
    with Folder(root, (), "top") as one, Folder(root, (), "top") as other:

        def make(new: bytes, dir_fd: int) -> None:
            assert other.sweep(other.names()) == 0
            os.symlink("x", new, dir_fd=dir_fd)

        one.put(b"x", make)
    assert os.listdir(tmp_path / "top") == ["x"]
