# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share offers, and what becomes of it when files change."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from programs import BLOCK, MIB, content

from lcsync import listing, merkle
from lcsync.cache import TreeCache
from lcsync.const import FOLDERS_DEEP_MAX, READ_BYTES
from lcsync.errors import SourceError, UsageError
from lcsync.index import Index, Item
from lcsync.manifest import Content, decode
from lcsync.segments import SegmentCache


def index_of(**given: Path) -> Index:
    index = Index(BLOCK)
    for name, path in given.items():
        index.add(name.encode(), bytes(path))
    return index


def item(index: Index, name: str) -> Item:
    return next(item for item in index.items if item.name == name.encode())


def root_of(data: bytes) -> bytes:
    return merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK)).root


def rewrite(path: Path, data: bytes) -> None:
    """Change a file in place, so that its time changes too, however coarse the clock of the file system."""
    before = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def test_file(tmp_path: Path) -> None:
    data = content(2 * MIB + 5)
    (tmp_path / "x").write_bytes(data)
    (tmp_path / "x").chmod(0o640)
    index = index_of(x=tmp_path / "x")
    (found,) = index.items
    assert (found.name, found.kind, found.mode) == (b"x", Content.FILE, 0o640)
    assert found.tree.root == merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK)).root
    told = decode(found.manifest(1376))
    assert (told.root, told.length, told.mtime_ns) == (found.tree.root, len(data), found.mtime_ns)
    cache = SegmentCache()
    assert b"".join(bytes(cache.load(found, i) or b"") for i in range(3)) == data
    assert cache.read_bytes == len(data)
    assert cache.load(found, 0) == data[:MIB] and cache.read_bytes == len(data)  # from memory


def test_folder(tmp_path: Path) -> None:
    root = tmp_path / "class"
    (root / "b" / "c").mkdir(parents=True)
    (root / "b" / "c" / "deep").write_bytes(content(1000))
    (root / "b.txt").write_bytes(b"short")
    (root / "a").write_bytes(b"")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("a")
    (root / "loop").symlink_to(root)
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(root)  # the name of a socket may not be long
        sock.bind("socket")
        os.chdir(here)
    index = index_of(share=root)
    assert sorted(item.name for item in index.items) == [
        b"share", b"share/a", b"share/b", b"share/b.txt", b"share/b/c", b"share/b/c/deep",
    ]  # fmt: skip
    entries = listing.decode(item(index, "share").data or b"")
    assert [entry.path for entry in entries] == [b"a", b"b.txt", b"b/c/deep"]
    assert [entry.inline for entry in entries] == [b"", b"short", None]
    below = listing.decode(item(index, "share/b").data or b"")
    assert [entry.path for entry in below] == [b"c/deep"]
    said = sorted(line.rpartition("/")[2] for line in index.skipped)
    assert said == [
        "fifo: is a fifo, not shared",
        "link: is a symbolic link, not shared",
        "loop: is a symbolic link, not shared",
        "socket: is a socket, not shared",
    ]


def test_devices_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    try:
        os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices, and not everywhere")
    index = index_of(share=tmp_path)
    assert [line.rpartition("/")[2] for line in index.skipped] == ["null: is a device, not shared"]
    assert [entry.path for entry in listing.decode(item(index, "share").data or b"")] == [b"file"]


def test_names_are_bytes(tmp_path: Path) -> None:
    """Whatever they are in the encoding of the locale, and in the order of bytes."""
    names = [b"\xff", b"\xc3\xa9", b"e\xcc\x81", b"\xed\xb3\xbf", b"new\nline", b"a\\b", b"\xe2\x80\xae"]
    for name in names:
        with open(bytes(tmp_path) + b"/" + name, "wb") as out:
            out.write(name)
    code = """
import sys
from lcsync import listing
from lcsync.index import Index
index = Index(1024)
index.add(b"d", sys.argv[1].encode(sys.getfilesystemencoding(), "surrogateescape"))
(folder,) = [item for item in index.items if item.name == b"d"]
for entry in listing.decode(folder.data):
    assert entry.path == entry.inline
    print(entry.path.hex())
assert not index.skipped and len({item.name for item in index.items}) == len(index.items)
"""
    for locale in ("C", "C.UTF-8"):
        env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [sys.executable, "-c", code, tmp_path]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert [bytes.fromhex(line) for line in done.stdout.split()] == sorted(names)


def test_the_list_is_in_byte_order_of_whole_paths(tmp_path: Path) -> None:
    for name in ("a", "a.b", "a-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    entries = listing.decode(item(index_of(share=tmp_path), "share").data or b"")
    assert [entry.path for entry in entries] == [b"a-b/f", b"a.b/f", b"a/f"]


def test_what_can_not_be_shared(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("missing", "no such file"), ("fifo", "is a fifo")):
        with pytest.raises(SourceError, match=reason):
            index_of(x=tmp_path / name)
    with pytest.raises(SourceError, match="device"):
        index_of(x=Path("/dev/null"))


@pytest.mark.parametrize("time_ns", [-(10**9), 0, 15 * 10**18])
def test_times_that_no_manifest_can_say(tmp_path: Path, time_ns: int) -> None:
    """Before 1970 and after 2262, which file systems can: the nearest that it can say."""
    root = tmp_path / "d"
    root.mkdir()
    (root / "f").write_bytes(b"x")
    for path in (root / "f", root):
        os.utime(path, ns=(time_ns, time_ns))
    index = index_of(d=root)
    for each in index.items:
        assert 0 <= decode(each.manifest(1376)).mtime_ns < 1 << 63
    assert len(listing.decode(item(index, "d").data or b"")) == 1


def test_a_name_twice(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    index = Index(BLOCK)
    index.add(b"d", bytes(tmp_path / "d"))
    for name in (b"d", b"d/x"):
        with pytest.raises(UsageError, match="OTHER="):
            index.add(name, bytes(tmp_path / "d" / "x"))


def test_very_deep_folders(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        index = index_of(share=tmp_path)
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree can't
    (said,) = index.skipped
    assert said.endswith("/d: too many folders in each other, not shared")
    assert len(index.items) == FOLDERS_DEEP_MAX + 1  # the folders, and a file in the first
    assert [entry.path for entry in listing.decode(item(index, "share").data or b"")] == [b"f"]


# --- change ---


def test_nothing_changed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(content(5000))
    index = index_of(d=tmp_path / "d")
    assert not index.looks_changed()
    fresh = index.again()
    assert {item.name: item.serial for item in fresh.items} == {item.name: item.serial for item in index.items}
    assert item(fresh, "d/x").tree is item(index, "d/x").tree  # not read again


@pytest.mark.parametrize("way", ["in place", "renamed over", "cut short"])
def test_changed_file(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    old, new = content(2 * MIB), content(2 * MIB, 2)[: MIB if way == "cut short" else None]
    path.write_bytes(old)
    index = index_of(x=path)
    if way == "renamed over":
        (tmp_path / "y").write_bytes(new)
        (tmp_path / "y").rename(path)
    else:
        rewrite(path, new)
    before = index.items[0]
    cache = SegmentCache()
    assert cache.load(before, 0) is None and cache.load(before, 1) is None  # not a byte under a hash it does not have
    assert before.changed and index.looks_changed()
    fresh = index.again()
    after = item(fresh, "x")
    assert after.serial > before.serial and after.tree.root != before.tree.root
    assert cache.load(after, 0) == new[:MIB]
    assert not fresh.looks_changed()


def test_changed_behind_its_times(tmp_path: Path) -> None:
    """Only the hash tells: size and times are as before, which is what bad disks do too."""
    path = tmp_path / "x"
    path.write_bytes(content(MIB))
    index = index_of(x=path)
    found = index.items[0]
    with path.open("r+b") as out:
        out.write(b"changed")
    assert SegmentCache().load(found, 0) is None
    assert found.changed and item(index.again(), "x").tree.root != found.tree.root


def test_changed_behind_its_times_and_the_index_on_disk(tmp_path: Path) -> None:
    """The index on disk believes the times; what was found to be wrong is read again all the same."""
    path, aside = tmp_path / "x", tmp_path / "index"
    path.write_bytes(content(MIB))
    with TreeCache(str(aside)) as cache:
        old = Index(BLOCK, cache=cache)
        old.add(b"x", bytes(path))
        (before,) = old.items
        other = content(MIB, 2)
        cache.put(before.version, merkle.Tree(MIB, BLOCK, merkle.hash_leaves(other, BLOCK)), None, 1 << 62)
        cache.flush()
        index = Index(BLOCK, cache=cache)
        index.add(b"x", bytes(path))
        (wrong,) = index.items
        assert wrong.tree.root != before.tree.root  # as if the file had had another content once
        assert SegmentCache().load(wrong, 0) is None and wrong.changed
        (right,) = index.again().items
        assert right.tree.root == before.tree.root and right.serial > wrong.serial


def test_removed_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content(MIB))
    index = index_of(x=path)
    path.unlink()
    assert index.looks_changed() and SegmentCache().load(index.items[0], 0) is None
    gone = index.again()
    assert not gone.items and gone.missing == [bytes(path)] and "no such file" in gone.skipped[0]
    assert not gone.looks_changed()
    path.write_bytes(b"back")
    assert gone.looks_changed()
    back = gone.again()
    assert back.items[0].data == b"back" and not back.missing


def test_folder_with_files_that_come_and_go(tmp_path: Path) -> None:
    root = tmp_path / "d"
    (root / "sub").mkdir(parents=True)
    for name in ("stays", "goes", "sub/changes"):
        (root / name).write_bytes(content(2000))
    index = index_of(d=root)
    stays, before = item(index, "d/stays"), item(index, "d")
    (root / "goes").unlink()
    (root / "sub" / "comes").write_bytes(b"new")
    rewrite(root / "sub" / "changes", content(3000))
    assert index.looks_changed()
    fresh = index.again()
    assert sorted(item.name for item in fresh.items) == [b"d", b"d/stays", b"d/sub", b"d/sub/changes", b"d/sub/comes"]
    assert item(fresh, "d/stays") is stays
    after = item(fresh, "d")
    assert after.serial > before.serial and after.tree.root != before.tree.root
    assert item(fresh, "d/sub/changes").tree.length == 3000
    assert not fresh.looks_changed()


def test_a_file_becomes_a_folder_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"file")
    index = index_of(x=path)
    path.unlink()
    path.mkdir()
    (path / "y").write_bytes(b"below")
    assert index.looks_changed()
    folder = index.again()
    assert sorted(item.name for item in folder.items) == [b"x", b"x/y"]
    (path / "y").unlink()
    path.rmdir()
    path.write_bytes(b"file again")
    assert folder.looks_changed()
    assert item(folder.again(), "x").data == b"file again"


def test_being_written_to_while_it_is_read(tmp_path: Path) -> None:
    """The old item stays, unsent, until the file rests."""
    path = tmp_path / "x"
    path.write_bytes(content(MIB))
    index = index_of(x=path)
    rewrite(path, content(MIB, 2))
    noise = 0

    def write_more(name: bytes, done: int, total: int) -> None:
        nonlocal noise
        noise += 1
        with path.open("ab") as out:
            out.write(b"more")

    index.progress = write_more
    fresh = index.again()
    assert noise and item(fresh, "x") is index.items[0] and index.items[0].changed
    fresh.progress = None
    final = fresh.again()
    assert item(final, "x").tree.length == MIB + 4 * noise and not final.looks_changed()


@pytest.mark.parametrize("way", ["grown", "truncated", "overwritten", "replaced", "removed"])
def test_changed_while_it_is_hashed(tmp_path: Path, way: str) -> None:
    """What is said of it is an error, the rest of the folder is shared, and the index on disk stays sound."""
    (tmp_path / "d").mkdir()
    path, aside = tmp_path / "d" / "x", tmp_path / "index"
    path.write_bytes(content(3 * READ_BYTES))
    (tmp_path / "d" / "y").write_bytes(b"stays")
    (tmp_path / "new").write_bytes(content(3 * READ_BYTES, 2))

    def meddle(name: bytes, done: int, total: int) -> None:
        if done != READ_BYTES or not name.endswith(b"/x"):
            return
        if way == "grown":
            with path.open("ab") as out:
                out.write(b"more")
        elif way == "truncated":
            os.truncate(path, READ_BYTES)
        elif way == "overwritten":
            with path.open("r+b") as out:
                out.write(b"other")
        elif way == "replaced":
            (tmp_path / "new").rename(path)
        else:
            path.unlink()

    with TreeCache(str(aside)) as cache:
        index = Index(BLOCK, meddle, cache=cache)
        index.add(b"d", bytes(tmp_path / "d"))
        assert item(index, "d/y").data == b"stays"
        (said,) = index.skipped
        assert said.endswith(": changed while it was read; run again")
        assert [each.name for each in index.items] == [b"d/y", b"d"]
        index.progress = None
        index = index.again()
        expected = [] if way == "removed" else [root_of(path.read_bytes())]
        assert [each.tree.root for each in index.items if each.name == b"d/x"] == expected
    for _ in range(2):  # what the index on disk keeps is no wrong tree either
        with TreeCache(str(aside)) as cache:
            index = Index(BLOCK, cache=cache)
            index.add(b"d", bytes(tmp_path / "d"))
            assert [each.tree.root for each in index.items if each.name == b"d/x"] == expected
