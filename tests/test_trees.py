# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Whole folders: what arrives is what is there, whatever was there before, and nothing outside is touched."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import (
    ROOT,
    acl,
    everything_about,
    make_everything,
    needs_root,
    needs_rsync,
    open_up,
    rsync_finds,
)

import lcsync
from lcsync import local
from lcsync.attributes import Keep
from lcsync.errors import DestinationError, DiskFull, SourceError, UsageError
from lcsync.files import Target
from lcsync.filters import rules
from lcsync.job import Options, Summary

ARCHIVE = Keep(links=True, perms=True, times=True, owner=True, group=True, devices=True, specials=True)
ALL = Keep(
    links=True,
    perms=True,
    times=True,
    owner=True,
    group=True,
    devices=True,
    specials=True,
    hard_links=True,
    acls=True,
    xattrs=True,
)
ENV = {**os.environ, "PYTHONPATH": str(Path(lcsync.__file__).parents[1])}


def sync(source: Path | str, destination: Path | str, keep: Keep = ALL, out: Any = None, **options: Any) -> Summary:
    """What is in a folder to another one."""
    return local.sync(f"{source}/", str(destination), Options(keep=keep, **options), out=out)


class Meddler(io.StringIO):
    """Does something as soon as a line with a word in it is said."""

    def __init__(self, word: str, action: Callable[[], object]) -> None:
        super().__init__()
        self.word, self.action = word, action

    def write(self, text: str) -> int:
        if self.word and self.word in text:
            self.word = ""
            self.action()
        return super().write(text)


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A folder with everything in it, and the name of one that is not there yet."""
    make_everything(tmp_path / "src")
    yield tmp_path / "src", tmp_path / "dst"
    open_up(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders, the source with some files."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    dst.mkdir()
    (src / "sub").mkdir(parents=True)
    (src / "one").write_bytes(b"one")
    (src / "sub" / "two").write_bytes(b"two")
    return src, dst


def tree(top: Path) -> dict[str, str]:
    """Contents, link targets and kinds, by path."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


# --- everything ---


@needs_root
@needs_rsync
def test_rsync_finds_no_difference_on_a_tree_of_everything(everything: tuple[Path, Path]) -> None:
    src, dst = everything
    summary = sync(src, dst)
    assert rsync_finds(src, dst) == []
    assert everything_about(dst) == everything_about(src)
    assert (dst / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (summary.set_id, summary.set_id_dropped, summary.files_skipped) == (4, 0, 0)
    changed = {path: path.lstat().st_ctime_ns for path in dst.rglob("*")}
    again = sync(src, dst)
    assert {path: path.lstat().st_ctime_ns for path in dst.rglob("*")} == changed
    done = vars(again)
    assert not any(
        done[name] for name in done if name not in ("files_compared", "files_unread", "bytes_compared", "seconds")
    )
    assert again.files_unread == again.files_compared


def test_everything_that_is_no_roots_arrives(everything: tuple[Path, Path]) -> None:
    """The same for whoever runs the tests: less of it where that is not root."""
    src, dst = everything
    sync(src, dst)
    here, there = everything_about(src), everything_about(dst)
    if ROOT:
        assert there == here
    assert there.keys() == here.keys()


@needs_root
@needs_rsync
@pytest.mark.parametrize("backup", [False, True])
def test_whatever_was_there_before_becomes_what_the_source_has(everything: tuple[Path, Path], backup: bool) -> None:
    src, dst = everything
    dst.mkdir()
    for name in () if backup else ("empty", "large", "sparse", "link dangling", "fifo", "socket", "null", "loop"):
        (dst / name / "full").mkdir(parents=True)
        (dst / name / "full" / "of").write_bytes(b"things")
    (dst / "empty folder").symlink_to("/etc")
    (dst / "folder").write_bytes(b"a file")
    os.mkfifo(dst / "folder 555")
    (dst / "folder 1777").mkdir(mode=0o000)
    (dst / "folder 1777" / "in").symlink_to("/etc/passwd")
    (dst / "mode 444").symlink_to("/dev/null")
    os.mkfifo(dst / "mode 777")
    (dst / "link outside").symlink_to("/etc/shadow")
    (dst / "link long").write_bytes(b"a file")
    os.mknod(dst / "mode 0", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    (dst / "mode 4755").write_bytes(b"4755")
    os.link(dst / "mode 4755", dst / "mode 6700")  # one file, where the source has two
    os.link(dst / "mode 4755", dst / "more" if backup else dst / "extra")
    os.setxattr(dst / "mode 4755", "user.more", b"than the source has")
    os.setxattr(dst / "mode 4755", "system.posix_acl_access", acl(7, 0o600, 7))
    os.setxattr(dst, "system.posix_acl_default", acl(7, 0o770, 7))
    (dst / "extra folder" / "deep").mkdir(parents=True)
    (dst / "extra folder" / "deep" / "file").touch()
    sync(src, dst, delete=True, backup=backup)
    if backup:
        left = rsync_finds(src, dst, "--exclude=*~")
        assert [line for line in left if not line.startswith(("*deleting", "cannot delete non-empty", ".d..t"))] == []
        assert (dst / "folder~").read_bytes() == b"a file"
        assert os.readlink(dst / "empty folder~") == "/etc"
        assert (dst / "extra folder" / "deep" / "file~").exists()
    else:
        assert rsync_finds(src, dst) == []
        assert everything_about(dst) == everything_about(src)


# --- each option alone ---


@pytest.fixture
def rich(tmp_path: Path) -> tuple[Path, Path]:
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    (src / "file").write_bytes(b"content")
    (src / "file").chmod(0o750)
    (src / "sub").chmod(0o751)
    os.link(src / "file", src / "sub" / "again")
    (src / "link").symlink_to("file")
    os.mkfifo(src / "fifo")
    os.setxattr(src / "file", "user.a", b"1")
    for path in (src / "file", src / "link", src / "sub"):
        os.utime(path, ns=(1, 10**18), follow_symlinks=False)
    return src, tmp_path / "dst"


def test_nothing_asked_is_nothing_kept(rich: tuple[Path, Path]) -> None:
    src, dst = rich
    before = os.umask(0o027)
    try:
        summary = sync(src, dst, Keep())
    finally:
        os.umask(before)
    assert sorted(tree(dst)) == ["file", "sub", "sub/again"]
    assert summary.files_skipped == 2
    assert stat.S_IMODE((dst / "file").stat().st_mode) == 0o750  # as in rsync: of the source, as umask lets it
    assert (dst / "file").stat().st_nlink == 1
    assert (dst / "file").stat().st_mtime_ns != 10**18
    assert os.listxattr(dst / "file") == []


@pytest.mark.parametrize("option", ["links", "perms", "times", "specials", "hard_links", "xattrs", "devices"])
def test_one_option_keeps_one_thing(rich: tuple[Path, Path], option: str) -> None:
    src, dst = rich
    dst.mkdir()
    (dst / "file").write_bytes(b"old")
    (dst / "file").chmod(0o640)
    sync(src, dst, Keep(**{option: True}))
    kept = {
        "links": (dst / "link").is_symlink(),
        "perms": stat.S_IMODE((dst / "file").stat().st_mode) == 0o750,
        "times": (dst / "file").stat().st_mtime_ns == (dst / "sub").stat().st_mtime_ns == 10**18,
        "specials": (dst / "fifo").exists(),
        "hard_links": (dst / "file").samefile(dst / "sub" / "again"),
        "xattrs": os.listxattr(dst / "file") == ["user.a"],
    }
    assert [name for name, is_kept in kept.items() if is_kept] == [option] * (option != "devices")


@needs_root
def test_owners_are_kept_by_name_or_number(rich: tuple[Path, Path]) -> None:
    src, dst = rich
    os.chown(src / "file", 1, 54321)
    for keep in (Keep(owner=True, group=True), Keep(owner=True, group=True, numeric_ids=True)):
        sync(src, dst, keep)
        assert ((dst / "file").stat().st_uid, (dst / "file").stat().st_gid) == (1, 54321)
        os.chown(dst / "file", 0, 0)
    sync(src, dst, Keep(group=True))
    assert ((dst / "file").stat().st_uid, (dst / "file").stat().st_gid) == (0, 54321)


@needs_root
def test_rights_of_another_owner_are_given_to_nobody(rich: tuple[Path, Path]) -> None:
    src, dst = rich
    os.chown(src / "file", 1, 1)
    (src / "file").chmod(0o6755)
    out = io.StringIO()
    assert sync(src, dst, Keep(perms=True), out, verbose=1).set_id_dropped == 2  # the second name is a file of its own
    assert stat.S_IMODE((dst / "file").stat().st_mode) == 0o755
    assert "no longer runs with the rights of its owner and group; that takes root and -o -g" in out.getvalue()
    assert sync(src, dst, Keep(perms=True, owner=True)).set_id_dropped == 2
    assert stat.S_IMODE((dst / "file").stat().st_mode) == 0o4755
    assert sync(src, dst, ARCHIVE).set_id == 2
    assert stat.S_IMODE((dst / "file").stat().st_mode) == 0o6755


@needs_root
def test_a_user_gets_what_is_his_to_set(tmp_path: Path) -> None:
    """As another user: no owners, no devices, no set-user-ID; but folders that are read-only, there and here."""
    script = """
import os, sys
from lcsync import cache, local
from lcsync.attributes import Keep
from lcsync.job import Options
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
keep = Keep(*[True] * 10)
for _ in range(2):
    summary = local.sync("src/", "dst", Options(keep=keep, delete=True))
    print(summary)
    os.chmod("src/ro", 0o755)
    open("src/ro/more", "w").write("more")
    os.remove("src/ro/file") if os.path.exists("src/ro/file") else None
    os.chmod("src/ro", 0o555)
"""
    tmp_path.chmod(0o755)
    src = tmp_path / "src"
    src.mkdir()
    (src / "ro").mkdir()
    (src / "ro" / "file").touch()
    (src / "setuid").touch()
    (src / "of another").touch()
    os.mknod(src / "null", stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(src / "setuid", "user.x", b"1")
    os.setxattr(src / "setuid", "trusted.x", b"1")
    (tmp_path / "dst").mkdir()
    for path in (src, src / "ro", src / "ro" / "file", src / "setuid", tmp_path / "dst"):
        os.chown(path, 65534, 65534)
    (src / "setuid").chmod(0o4555)
    (src / "ro").chmod(0o555)
    for path in tmp_path.parents:
        if path.stat().st_uid == 0 and "pytest" in path.name:
            path.chmod(0o755)
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 skipped" in done.stdout and "1 no longer set-user-ID" in done.stdout
    dst = tmp_path / "dst"
    assert sorted(tree(dst)) == ["of another", "ro", "ro/more", "setuid"]
    assert stat.S_IMODE((dst / "ro").stat().st_mode) == 0o555
    assert stat.S_IMODE((dst / "setuid").stat().st_mode) == 0o555
    assert os.listxattr(dst / "setuid") == ["user.x"]
    assert (dst / "of another").stat().st_uid == 65534


def test_attributes_that_can_not_be_set_there_are_an_error_but_content_arrives(tmp_path: Path) -> None:
    for folder in ("src", "dst"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "a").write_text("a")
    (tmp_path / "src" / "b").write_text("b")
    os.setxattr(tmp_path / "src" / "a", "user.x", b"1")
    (tmp_path / "src" / "a").chmod(0o640)
    script = f"""
import os
from lcsync import local
from lcsync.attributes import Keep
from lcsync.errors import DestinationError
from lcsync.job import Options
for source in ("{tmp_path}/src/", "{tmp_path}/src/a"):
    try:
        local.sync(source, "{tmp_path}/dst", Options(keep=Keep(perms=True, xattrs=True)))
    except DestinationError as error:
        print(error)
print(sorted(os.listdir("{tmp_path}/dst")), oct(os.stat("{tmp_path}/dst/a").st_mode))
"""
    command = ["unshare", "--mount", *([] if ROOT else ["--user", "--map-root-user"]), "sh", "-c"]
    command += [f'mount -t ramfs none {tmp_path}/dst && exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60)
    if done.returncode and os.environ.get("CI") != "true" and not ROOT:
        pytest.skip(f"no ramfs here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/dst: 1 without some of their attributes, the others are right; the first: "
        f"{tmp_path}/dst/a: can't be given its attributes: operation not supported",
    ] * 2 + ["['a', 'b'] 0o100640"], done.stderr


def test_zeros_become_holes_where_asked(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    data = os.urandom(10_000) + bytes(4 << 20) + os.urandom(5000) + bytes(100_001)
    (tmp_path / "src" / "f").write_bytes(data)
    for sparse in (False, True):
        sync(tmp_path / "src", tmp_path / f"{sparse}", sparse=sparse)
        assert (tmp_path / f"{sparse}" / "f").read_bytes() == data
        assert ((tmp_path / f"{sparse}" / "f").stat().st_blocks * 512 < 1 << 20) is sparse


def test_a_link_or_fifo_alone(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (src / "link").symlink_to("sub")
    os.mkfifo(src / "fifo")
    for name in ("link", "fifo"):
        local.sync(str(src / name), str(dst), Options(keep=ARCHIVE))
    assert tree(dst) == {"link": "-> sub", "fifo": "special"}
    with pytest.raises(SourceError, match="is a fifo, not a file"):
        local.sync(str(src / "fifo"), str(dst))
    local.sync(str(src / "link"), str(dst.parent / "new"))  # without -l, it is followed
    assert tree(dst.parent / "new") == {"link": "folder", "link/two": "two"}


# --- hard links ---


def test_metadata_of_a_file_with_other_names_is_not_theirs(pair: tuple[Path, Path]) -> None:
    """As in folders of `cp -al`: what another name shows must not change by a sync of this one."""
    src, dst = pair
    (dst / "one").write_bytes(b"one")
    (dst / "one").chmod(0o600)
    os.link(dst / "one", dst.parent / "snapshot")
    (src / "one").chmod(0o644)
    sync(src, dst)
    assert stat.S_IMODE((dst.parent / "snapshot").stat().st_mode) == 0o600
    assert stat.S_IMODE((dst / "one").stat().st_mode) == 0o644
    assert (dst / "one").read_bytes() == b"one"


def test_links_are_made_anew_after_a_change(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    os.link(src / "one", src / "sub" / "one")
    os.link(src / "one", src / "three")
    sync(src, dst)
    (src / "one").write_bytes(b"changed")
    out = io.StringIO()
    sync(src, dst, out=out, dry_run=True)
    assert out.getvalue().splitlines() == [f"{dst}/one: would write 7 B of 7 B"]
    assert sync(src, dst).hard_links_made == 2
    assert len({(dst / name).stat().st_ino for name in ("one", "sub/one", "three")}) == 1
    assert (dst / "three").read_bytes() == b"changed"
    (dst / "three").unlink()
    out = io.StringIO()
    sync(src, dst, out=out, dry_run=True)
    assert out.getvalue().splitlines() == [f"{dst}/three: would link to {dst}/one"]


# --- deleting ---


def test_delete_takes_what_the_source_has_no_more(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    outside = dst.parent / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    sync(src, dst)
    (dst / "old" / "deep").mkdir(parents=True)
    (dst / "old" / "deep" / "file").touch()
    (dst / "old" / "link").symlink_to(outside)
    (dst / "link").symlink_to(outside)
    (dst / "sub" / "more").touch()
    (src / "link to").symlink_to("one")
    (dst / "link to").touch()  # the source has it, though it is not copied
    out = io.StringIO()
    before = tree(dst)
    assert sync(src, dst, Keep(), out, delete=True, dry_run=True).deleted == 6
    assert tree(dst) == before
    assert out.getvalue().splitlines() == [
        f"{dst}/link: would delete",
        f"{dst}/old/link: would delete",
        f"{dst}/old/deep/file: would delete",
        f"{dst}/old/deep/: would delete",
        f"{dst}/old/: would delete",
        f"{dst}/sub/more: would delete",
    ]
    assert sync(src, dst, Keep(), delete=True).deleted == 6
    assert tree(dst) == {"one": "one", "sub": "folder", "sub/two": "two", "link to": ""}
    assert tree(outside) == {"precious": ""}


def test_excluded_is_neither_copied_nor_deleted(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (src / "a.o").touch()
    (src / "keep.o").touch()
    for name in ("old.o", "old.c", "cache/x.o", "cache/x.c", "empty/deep/y.c"):
        (dst / name).parent.mkdir(parents=True, exist_ok=True)
        (dst / name).touch()
    found = rules([("include", b"keep.*"), ("exclude", b"*.o"), ("exclude", b"/sub/")])
    summary = sync(src, dst, rules=found, delete=True)
    assert sorted(tree(dst)) == ["cache", "cache/x.o", "keep.o", "old.o", "one"]
    assert (summary.files_excluded, summary.deleted) == (2, 5)


def test_what_is_in_the_way_goes_though_its_name_is_excluded(pair: tuple[Path, Path]) -> None:
    """Since the rule means another kind of thing."""
    src, dst = pair
    (dst / "one" / "in").mkdir(parents=True)
    sync(src, dst, rules=rules([("exclude", b"one/")]), delete=True)
    assert (dst / "one").read_bytes() == b"one"


@needs_rsync
@settings(deadline=None)
@given(st.data())
def test_deleting_with_rules_is_as_rsync_does_it(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    paths = st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), max_size=8)
    patterns = st.sampled_from(["a", "b/", "/c", "a/b", "*", "/a/***", "b/**", "[ab]", "*/c"])
    top = tmp_path_factory.mktemp("rules")
    for side in ("src", "ours", "theirs"):
        (top / side).mkdir()
    for sides in (("src",), ("ours", "theirs")):
        for path in sorted(data.draw(paths)):
            for side in sides:
                if not any((top / side / above).is_file() for above in Path(path).parents if str(above) != "."):
                    (top / side / path).parent.mkdir(parents=True, exist_ok=True)
                    if not (top / side / path).exists():
                        (top / side / path).write_text(sides[0])
    given_rules = data.draw(st.lists(st.tuples(st.sampled_from(["include", "exclude"]), patterns), max_size=3))
    options = [f"--{option}={pattern}" for option, pattern in given_rules]
    done = subprocess.run(["rsync", "-rI", "--delete", *options, f"{top}/src/", f"{top}/theirs/"], capture_output=True)
    try:
        found = rules([(option, pattern.encode()) for option, pattern in given_rules])
        sync(top / "src", top / "ours", Keep(), rules=found, delete=True)
        ours = 0
    except DestinationError:
        ours = 23  # as rsync: something excluded is in the way
    assert (ours, tree(top / "ours")) == (done.returncode, tree(top / "theirs"))
    shutil.rmtree(top)


@needs_root
def test_nothing_is_deleted_where_the_source_can_not_be_read(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / "sub").mkdir()
    (dst / "sub" / "old").touch()
    script = """
import os, sys
from lcsync import local
from lcsync.errors import SourceError
from lcsync.job import Options
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
try:
    local.sync("src/", "dst", Options(delete=True), out=sys.stdout)
except SourceError as error:
    print(error)
"""
    for path in (dst, dst / "sub"):
        path.chmod(0o777)
    for path in (src.parent, *src.parent.parents):
        if path.stat().st_uid == 0 and "pytest" in str(path):
            path.chmod(0o755)
    (src / "a").mkdir(mode=0o700)
    done = subprocess.run([sys.executable, "-c", script], cwd=src.parent, env=ENV, capture_output=True, text=True)
    assert "nothing is deleted here, as some of the source could not be read" in done.stdout, done.stderr
    assert "1 not copied, the others are" in done.stdout
    assert tree(dst) == {"a": "folder", "one": "one", "sub": "folder", "sub/old": "", "sub/two": "two"} or tree(
        dst
    ) == {
        "one": "one",
        "sub": "folder",
        "sub/old": "",
        "sub/two": "two",
    }


def test_a_folder_in_the_way_of_a_file_takes_delete(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / "one" / "full").mkdir(parents=True)
    with pytest.raises(DestinationError, match="is a folder with something in it, remove it, or say --delete"):
        sync(src, dst)
    assert tree(dst) == {"one": "folder", "one/full": "folder", "sub": "folder", "sub/two": "two"}
    with pytest.raises(DestinationError, match="some of it excluded"):
        sync(src, dst, delete=True, rules=rules([("exclude", b"full")]))
    sync(src, dst, delete=True)
    assert (dst / "one").read_bytes() == b"one"


def test_an_empty_folder_in_the_way_goes(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / "one").mkdir()
    out = io.StringIO()
    sync(src, dst, out=out, dry_run=True)
    assert f"{dst}/one: would write 3 B of 3 B" in out.getvalue()
    sync(src, dst)
    assert (dst / "one").read_bytes() == b"one"


def test_a_mount_point_is_not_emptied(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / "old" / "mounted").mkdir(parents=True)
    outside = dst.parent / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    script = f"""
from lcsync import local
from lcsync.errors import DestinationError
from lcsync.job import Options
try:
    local.sync("{src}/", "{dst}", Options(delete=True))
except DestinationError as error:
    print(error)
"""
    command = ["unshare", "--mount", *([] if ROOT else ["--user", "--map-root-user"]), "sh", "-c"]
    command += [f'mount --bind {outside} {dst}/old/mounted && exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60)
    if done.returncode and os.environ.get("CI") != "true" and not ROOT:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert "old/mounted: is a mount point; unmount it first" in done.stdout, done.stderr
    assert tree(outside) == {"precious": ""}
    assert (dst / "one").exists()


# --- backups ---


def test_backups_of_what_is_replaced_and_deleted(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / "one").write_text("old one")
    (dst / "one~").write_text("older one")
    (dst / "gone").write_text("gone")
    (dst / "gone folder").mkdir()
    (dst / "gone folder" / "in").write_text("in")
    sync(src, dst, delete=True, backup=True)
    expected = {
        "gone folder": "folder",
        "gone folder/in~": "in",
        "gone~": "gone",
        "one": "one",
        "one~": "old one",
        "sub": "folder",
        "sub/two": "two",
    }
    assert tree(dst) == expected
    sync(src, dst, delete=True, backup=True)
    assert tree(dst) == expected
    with pytest.raises(UsageError, match="choose one"):
        sync(src, dst, backup=True, inplace=True)


def test_a_backup_where_there_are_no_hard_links(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    src, dst = pair
    (dst / "one").write_text("old one")

    def none(*args: object, **more: object) -> None:
        raise PermissionError(1, "as FAT says")

    monkeypatch.setattr(os, "link", none)
    sync(src, dst, Keep(), backup=True)
    assert ((dst / "one").read_text(), (dst / "one~").read_text()) == ("one", "old one")


# --- temporaries ---


def test_what_dead_runs_left_is_removed_and_what_living_ones_have_is_not(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / "sub").mkdir()
    (src / ".mine.lcsync-00000000").write_text("a name that the source has")
    for name in (
        ".mine.lcsync-00000000",
        ".x.lcsync-0123abcd",
        "sub/.y.lcsync-ffffffff",
        ".z.lcsync-0123abcg",
        ".lcsync-12345678",
    ):
        (dst / name).write_text("left")
    (dst / ".folder.lcsync-00000001").mkdir()
    (dst / ".folder.lcsync-00000001" / "new").symlink_to("/")
    (dst / ".folder.lcsync-00000002").mkdir()
    (dst / ".folder.lcsync-00000002" / "precious").touch()
    with Target(str(dst / "big"), None, 100) as living:
        (temporary,) = {path.name for path in dst.iterdir() if path.name.startswith(".big.lcsync-")}
        assert sync(src, dst, Keep()).temporaries_removed == 3
        assert temporary in os.listdir(dst)
        sync(src, dst, Keep(), delete=True)
        assert temporary in os.listdir(dst)
        living.commit(None, None)
    assert sorted(os.listdir(dst)) == [".mine.lcsync-00000000", "big", "one", "sub"]


def test_a_file_alone_has_its_folder_swept(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    (dst / ".one.lcsync-0123abcd").write_text("left")
    local.sync(str(src / "one"), str(dst), Options(dry_run=True))
    assert sorted(os.listdir(dst)) == [".one.lcsync-0123abcd"]
    local.sync(str(src / "one"), str(dst))
    assert os.listdir(dst) == ["one"]


# --- hostile folders ---


@pytest.mark.parametrize("when", ["writing", "making a symbolic link", "linking", "deleting", "making the folder"])
def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(pair: tuple[Path, Path], when: str) -> None:
    src, dst = pair
    outside = dst.parent / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("two", "gone", "zlink", "sub/deep"):
        (outside / "sub" / name).parent.mkdir(exist_ok=True)
        (outside / "sub" / name).write_text("precious")
    (src / "sub" / "alink").symlink_to("x")
    (src / "sub" / "zlink").symlink_to("x")
    os.link(src / "sub" / "two", src / "sub" / "two again")
    (src / "sub" / "deeper").mkdir()
    (src / "sub" / "deeper" / "file").touch()
    (src / "sub").chmod(0o711)
    (dst / "sub").mkdir()
    (dst / "sub" / "gone").touch()
    before = {**tree(outside), "mode": oct((outside / "sub").stat().st_mode)}

    def swap() -> None:
        (dst / "sub").rename(dst / "moved away")
        (dst / "sub").symlink_to(outside / "sub")

    meddler = Meddler({"writing": "two: writing", "making the folder": "deeper: making"}.get(when, when), swap)
    with pytest.raises(DestinationError, match="is in the way"):
        sync(src, dst, out=meddler, delete=True, verbose=1)
    assert meddler.word == ""
    assert {**tree(outside), "mode": oct((outside / "sub").stat().st_mode)} == before


def test_a_folder_that_is_exchanged_meanwhile_keeps_its_mode(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    other = dst.parent / "other"
    other.mkdir(mode=0o700)
    (src / "sub").chmod(0o777)

    def swap() -> None:
        (dst / "sub").rename(dst / "moved away")
        other.rename(dst / "sub")

    with pytest.raises(DestinationError, match="was replaced meanwhile"):
        sync(src, dst, out=Meddler("two: writing", swap), verbose=1)
    assert stat.S_IMODE((dst / "sub").stat().st_mode) == 0o700


def test_a_link_where_a_folder_should_be(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    outside = dst.parent / "outside"
    outside.mkdir()
    (dst / "sub").symlink_to(outside)
    with pytest.raises(DestinationError, match="sub: a symbolic link is in the way"):
        sync(src, dst, Keep())  # it may be the user's own
    sync(src, dst, Keep(links=True))  # links are as in the source, which has none there
    assert tree(dst) == {"one": "one", "sub": "folder", "sub/two": "two"}
    assert tree(outside) == {}


def test_a_source_folder_that_becomes_a_link_meanwhile_is_not_followed(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    secret = dst.parent / "secret"
    secret.mkdir()
    (secret / "two").write_text("secret")

    def swap() -> None:
        shutil.rmtree(src / "sub")
        (src / "sub").symlink_to(secret)

    with pytest.raises(SourceError, match="sub: "):
        sync(src, dst, out=Meddler("one: writing", swap), verbose=1)
    assert tree(dst) == {"one": "one"}


# --- room ---


def test_a_folder_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    for n in range(8):
        (tmp_path / "src" / "sub" / f"{n}").write_bytes(os.urandom(1 << 18))
    script = f"""
import os, sys
from lcsync import local
from lcsync.errors import DiskFull
from lcsync.filters import rules
from lcsync.job import Options
top = "{tmp_path}/dst"
try:
    local.sync("{tmp_path}/src/", top)
except DiskFull as error:
    print(error, os.listdir(top))
local.sync("{tmp_path}/src/", top, Options(rules=rules([("exclude", b"[3-9]")])))
print(sorted(os.listdir(top + "/sub")))
try:
    local.sync("{tmp_path}/src/", top)
except DiskFull as error:
    print(error)
"""
    (tmp_path / "dst").mkdir()
    command = ["unshare", "--mount", *([] if ROOT else ["--user", "--map-root-user"]), "sh", "-c"]
    command += [f'mount -t tmpfs -o size=1m none {tmp_path}/dst && exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60)
    if done.returncode and os.environ.get("CI") != "true" and not ROOT:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("needs 2.0 MiB, 1.0 MiB are free; free some space, or choose another destination []"), done
    assert lines[1] == "['0', '1', '2']"
    assert "needs 1.2 MiB, 256.0 KiB are free" in lines[2]
    assert DiskFull.exit_code == 9


# --- any two trees ---

PATHS = st.lists(st.sampled_from(["a", "b", "c", "\udcff"]), min_size=1, max_size=3).map("/".join)
THINGS = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(["", "x", "y" * 3000]), st.sampled_from([0o600, 0o644, 0o755])),
    st.tuples(st.just("link"), st.sampled_from(["a", "..", "/nowhere"]), st.just(0)),
    st.tuples(st.just("folder"), st.just(""), st.sampled_from([0o700, 0o755])),
    st.tuples(st.just("fifo"), st.just(""), st.sampled_from([0o600, 0o644])),
    st.tuples(st.just("other name"), PATHS, st.just(0)),
)


def build(top: Path, things: dict[str, tuple[str, str, int]]) -> None:
    top.mkdir()
    for name, (kind, text, mode) in things.items():
        path = top / name
        if os.path.lexists(path) or any(
            above.is_symlink() or not above.is_dir() for above in path.parents if above.exists()
        ):
            continue
        if any(os.path.islink(above) for above in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text(text)
        elif kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(text)
        elif os.path.lexists(top / text) and not (top / text).is_dir():
            os.link(top / text, path, follow_symlinks=False)
        if mode and os.path.lexists(path):
            path.chmod(mode)


@settings(deadline=None)
@given(st.dictionaries(PATHS, THINGS, max_size=8), st.dictionaries(PATHS, THINGS, max_size=8))
def test_any_tree_becomes_any_other(
    tmp_path_factory: pytest.TempPathFactory,
    new: dict[str, tuple[str, str, int]],
    old: dict[str, tuple[str, str, int]],
) -> None:
    top = tmp_path_factory.mktemp("any")
    build(top / "src", new)
    build(top / "dst", old)
    sync(top / "src", top / "dst", delete=True, ignore_times=True)
    expected, found = everything_about(top / "src"), everything_about(top / "dst")
    assert found == expected
    assert not vars(sync(top / "src", top / "dst", delete=True))["files_changed"]
    shutil.rmtree(top)
