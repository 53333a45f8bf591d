# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share offers, and what becomes of it when files change."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import BLOCK, MIB, content, until

from lcsync import files, merkle
from lcsync.cache import TreeCache, settled
from lcsync.const import MTIME_NS_MAX, NAME_BYTES_MAX, READ_BYTES
from lcsync.entries import Kind
from lcsync.entries import decode as entries_decode
from lcsync.errors import SourceError, UsageError
from lcsync.filters import rules
from lcsync.index import Index, Item
from lcsync.manifest import Content, decode
from lcsync.packing import What
from lcsync.packitem import PackItem
from lcsync.scan import CTIME
from lcsync.segments import SegmentCache


def index_of(**given: Path) -> Index:
    index = Index(BLOCK)
    for name, path in given.items():
        index.add(name.encode(), bytes(path))
    return index


def item(index: Index, name: str) -> Item | PackItem:
    return next(item for item in index.items if item.name == name.encode())


def files_of(index: Index) -> list[Item]:
    return [each for each in index.items if isinstance(each, Item)]


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


def folder(index: Index, name: str) -> PackItem:
    found = item(index, name)
    assert isinstance(found, PackItem)
    return found


def content_of(found: PackItem) -> dict[bytes, bytes]:
    """What of each file the share would send."""
    cache = SegmentCache()
    (data,) = [source for source in found.sources() if source.tree is found.pack.tree]
    layout, entries = found.pack.layout, found.pack.entries
    segments = [cache.load(data, segment) for segment in range(layout.segments)]
    assert None not in segments
    whole = b"".join(bytes(segment or b"") for segment in segments)
    ends = layout.starts + layout.sizes
    return {entries.paths[i]: whole[layout.starts[i] : ends[i]] for i in entries.of_kind(Kind.FILE)}


def test_folder(tmp_path: Path) -> None:
    root = tmp_path / "class"
    (root / "b" / "c").mkdir(parents=True)
    (root / "b" / "c" / "deep").write_bytes(content(1000))
    (root / "b.txt").write_bytes(b"short")
    (root / "a").write_bytes(b"")
    os.link(root / "a", root / "z")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("a")
    (root / "loop").symlink_to(root)
    root.chmod(0o750)
    index = index_of(share=root)
    (found,) = index.items
    assert isinstance(found, PackItem) and found.name == b"share" and not index.skipped
    entries = found.pack.entries
    assert dict(zip(entries.paths, entries.kinds.tolist(), strict=True)) == {
        b"": Kind.FOLDER, b"a": Kind.FILE, b"b": Kind.FOLDER, b"b.txt": Kind.FILE, b"b/c": Kind.FOLDER,
        b"b/c/deep": Kind.FILE, b"fifo": Kind.FIFO, b"link": Kind.SYMLINK, b"loop": Kind.SYMLINK, b"z": Kind.HARDLINK,
    }  # fmt: skip
    assert content_of(found) == {b"a": b"", b"b.txt": b"short", b"b/c/deep": content(1000)}
    told = decode(found.manifest(1376), (Content.PACK,))
    assert (told.root, told.length, told.mode, told.serial) == (found.root, 1005, 0o750, found.serial)
    assert told.entries and told.entries.inline == found.pack.data
    (listed, data) = found.sources()
    assert listed.data == found.pack.data and listed.tree is found.pack.list_tree and data.data is None
    assert SegmentCache().load(listed, 0) == found.pack.data


def test_names_of_files_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(b"x")
    (tmp_path / "link").symlink_to("sub/x")
    found = folder(index_of(d=tmp_path), "d")
    entry = found.entry_of(b"d/sub/x")
    assert found.pack.entries.paths[entry] == b"sub/x"
    for name in (b"d", b"d/", b"d/sub", b"d/link", b"d/sub/y", b"sub/x", b"e/sub/x", b"d/zzz"):
        assert found.entry_of(name) == -1


def test_names_are_bytes(tmp_path: Path) -> None:
    """Whatever they are in the encoding of the locale, and in the order of bytes."""
    names = [b"\xff", b"\xc3\xa9", b"e\xcc\x81", b"\xed\xb3\xbf", b"new\nline", b"a\\b", b"\xe2\x80\xae"]
    for name in names:
        with open(bytes(tmp_path) + b"/" + name, "wb") as out:
            out.write(name)
    code = """
import sys
from lcsync.entries import decode
from lcsync.index import Index
index = Index(1024)
index.add(b"d", sys.argv[1].encode(sys.getfilesystemencoding(), "surrogateescape"))
(folder,) = index.items
for path in decode(folder.pack.data).paths[1:]:
    print(path.hex())
assert not index.skipped
"""
    for locale in ("C", "C.UTF-8"):
        env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [sys.executable, "-c", code, tmp_path]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert [bytes.fromhex(line) for line in done.stdout.split()] == sorted(names)


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
    index.add(b"f", bytes(root / "f"))
    for each in index.items:
        assert 0 <= decode(each.manifest(1376), (each.kind,)).mtime_ns < 1 << 63
    times = entries_decode(folder(index, "d").pack.data).mtimes_ns
    assert times is not None and times.tolist() == 2 * [min(time_ns, MTIME_NS_MAX)]  # a list can say more


def test_a_name_twice(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    index = Index(BLOCK)
    index.add(b"d", bytes(tmp_path / "d"))
    for name in (b"d", b"d/x"):
        with pytest.raises(UsageError, match="OTHER="):
            index.add(name, bytes(tmp_path / "d" / "x"))
    index = index_of(**{"d/x": tmp_path / "d" / "x"})
    with pytest.raises(UsageError, match="OTHER="):
        index.add(b"d", bytes(tmp_path / "d"))


def test_very_deep_folders(tmp_path: Path) -> None:
    """As deep as a path may be long; what is below is said to be left out."""
    (tmp_path / "f").write_bytes(b"x")
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(2100):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        index = index_of(share=tmp_path)
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree can't
    (said,) = index.skipped
    assert said == f"{tmp_path}/52 paths of more than 4096 bytes, not shared"
    paths = entries_decode(folder(index, "share").pack.data).paths
    assert len(paths) == 2 + NAME_BYTES_MAX // 2 and max(map(len, paths)) == NAME_BYTES_MAX - 1


# --- change ---


def test_nothing_changed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(content(5000))
    index = index_of(d=tmp_path / "d", x=tmp_path / "d" / "x")
    assert not index.looks_changed()
    assert index.again().items == index.items  # not read again


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
    (before,) = files_of(index)
    cache = SegmentCache()
    assert cache.load(before, 0) is None and cache.load(before, 1) is None  # not a byte under a hash it does not have
    assert before.changed and index.looks_changed()
    fresh = index.again()
    (after,) = files_of(fresh)
    assert after.serial > before.serial and after.tree.root != before.tree.root
    assert cache.load(after, 0) == new[:MIB]
    assert not fresh.looks_changed()


def test_changed_behind_its_times(tmp_path: Path) -> None:
    """Only the hash tells: size and times are as before, which is what bad disks do too."""
    path = tmp_path / "x"
    path.write_bytes(content(MIB))
    index = index_of(x=path)
    (found,) = files_of(index)
    with path.open("r+b") as out:
        out.write(b"changed")
    assert SegmentCache().load(found, 0) is None
    assert found.changed and item(index.again(), "x").root != found.root


def test_changed_behind_its_times_and_the_index_on_disk(tmp_path: Path) -> None:
    """The index on disk believes the times; what was found to be wrong is read again all the same."""
    path, aside = tmp_path / "x", tmp_path / "index"
    path.write_bytes(content(MIB))
    with TreeCache(str(aside)) as cache:
        old = Index(BLOCK, cache=cache)
        old.add(b"x", bytes(path))
        (before,) = files_of(old)
        other = content(MIB, 2)
        cache.put(before.version, merkle.Tree(MIB, BLOCK, merkle.hash_leaves(other, BLOCK)), None, 1 << 62)
        cache.flush()
        index = Index(BLOCK, cache=cache)
        index.add(b"x", bytes(path))
        (wrong,) = files_of(index)
        assert wrong.tree.root != before.tree.root  # as if the file had had another content once
        assert SegmentCache().load(wrong, 0) is None and wrong.changed
        (right,) = files_of(index.again())
        assert right.tree.root == before.tree.root and right.serial > wrong.serial


def test_removed_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content(MIB))
    index = index_of(x=path)
    path.unlink()
    assert index.looks_changed() and SegmentCache().load(files_of(index)[0], 0) is None
    gone = index.again()
    assert not gone.items and gone.missing == [bytes(path)] and "no such file" in gone.skipped[0]
    assert not gone.looks_changed()
    path.write_bytes(b"back")
    assert gone.looks_changed()
    back = gone.again()
    assert files_of(back)[0].data == b"back" and not back.missing


def test_folder_with_files_that_come_and_go(tmp_path: Path) -> None:
    root = tmp_path / "d"
    (root / "sub").mkdir(parents=True)
    for name in ("stays", "goes", "sub/changes"):
        (root / name).write_bytes(content(2000))
    index = index_of(d=root)
    before = item(index, "d")
    (root / "goes").unlink()
    (root / "sub" / "comes").write_bytes(b"new")
    rewrite(root / "sub" / "changes", content(3000))
    assert index.looks_changed()
    fresh = index.again()
    after = folder(fresh, "d")
    assert after.serial > before.serial and after.root != before.root
    assert content_of(after) == {b"stays": content(2000), b"sub/changes": content(3000), b"sub/comes": b"new"}
    assert not fresh.looks_changed()


def test_a_change_deep_in_a_folder_is_seen_by_a_look_alone(tmp_path: Path) -> None:
    """The folder itself tells nothing, and to look at all that is in it takes too long for each manifest."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(content(2000))
    index = index_of(d=tmp_path)
    rewrite(tmp_path / "sub" / "x", content(3000))
    found = folder(index, "d")
    assert not found.seems_changed() and found.looks_changed() and found.seems_changed()


def wait_for_the_clock(path: Path) -> None:
    """Until a change of the file must give it another time."""
    until(lambda: settled(files.version_of(path.stat()), time.time_ns()), "another tick of the clock")


def bytes_read() -> int:
    """By this process, from whatever file."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_only_what_changed_in_a_folder_is_read_again(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}").write_bytes(content(100_000, i))
    wait_for_the_clock(tmp_path / "39")
    index = index_of(d=tmp_path)
    rewrite(tmp_path / "07", content(100_000, 99))
    assert index.looks_changed()
    before = bytes_read()
    fresh = folder(index.again(), "d")
    read = bytes_read() - before
    assert read < 150_000
    assert content_of(fresh)[b"07"] == content(100_000, 99)


def test_changed_behind_its_times_in_a_folder(tmp_path: Path) -> None:
    """Only the hash tells: neither the pack before nor the index on disk is believed about what is in the segment."""
    d = tmp_path / "d"
    d.mkdir()
    for name in ("a", "b"):
        (d / name).write_bytes(content(MIB // 2))
    with TreeCache(str(tmp_path / "index")) as cache:
        index = Index(BLOCK, cache=cache)
        index.add(b"d", bytes(d))
        found = folder(index, "d")
        before = (d / "b").stat()
        with (d / "b").open("r+b") as out:
            out.write(b"changed")
        os.utime(d / "b", ns=(before.st_mtime_ns, before.st_mtime_ns))
        rows = found.pack.found.rows.copy()
        rows[found.pack.found.paths.index(b"b"), CTIME] = (d / "b").stat().st_ctime_ns  # as if a bad disk had done it
        found.pack.found.rows = rows
        cache.put_folder(found.version.device, found.version.inode, BLOCK, found.pack.state().to_bytes())
        assert not index.looks_changed()
        assert SegmentCache().load(found.sources()[1], 0) is None
        assert index.looks_changed() and found.wrong == {b"a", b"b"}
        after = folder(index.again(), "d")
        assert content_of(after) == {name: (d / name.decode()).read_bytes() for name in (b"a", b"b")}
        assert after.serial > found.serial


def test_the_index_on_disk_knows_folders(tmp_path: Path) -> None:
    """What did not change since is not read."""
    d = tmp_path / "d"
    (d / "sub").mkdir(parents=True)
    for i in range(20):
        (d / "sub" / str(i)).write_bytes(content(100_000 * i, i))
    os.link(d / "sub" / "3", d / "three")
    wait_for_the_clock(d / "three")
    roots, read = [], []
    for turn in range(2):
        with TreeCache(str(tmp_path / "index")) as cache:
            before = bytes_read()
            index = Index(BLOCK, cache=cache)
            index.add(b"d", bytes(d))
            read.append(bytes_read() - before)
            found = folder(index, "d")
            roots.append(found.root)
            assert found.kept == bool(turn)
            index.keep()
            assert found.kept
    assert roots[0] == roots[1]
    assert read[0] > 19_000_000 and read[1] < 100_000, read


def test_a_folder_of_a_name_becomes_another(tmp_path: Path) -> None:
    d = tmp_path / "d"
    d.mkdir()
    (d / "x").write_bytes(b"one")
    index = index_of(d=d)
    d.rename(tmp_path / "old")
    d.mkdir()
    (d / "y").write_bytes(b"two")
    assert item(index, "d").seems_changed() and index.looks_changed()
    assert content_of(folder(index.again(), "d")) == {b"y": b"two"}


def test_a_file_becomes_a_folder_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"file")
    index = index_of(x=path)
    path.unlink()
    path.mkdir()
    (path / "y").write_bytes(b"below")
    assert index.looks_changed()
    made = index.again()
    assert content_of(folder(made, "x")) == {b"y": b"below"}
    assert made.items[0].serial > index.items[0].serial
    (path / "y").unlink()
    path.rmdir()
    path.write_bytes(b"file again")
    assert made.looks_changed()
    assert files_of(made.again())[0].data == b"file again"


def test_being_written_to_while_it_is_read(tmp_path: Path) -> None:
    """The old item stays, unsent, until the file rests."""
    path = tmp_path / "x"
    path.write_bytes(content(MIB))
    index = index_of(x=path)
    rewrite(path, content(MIB, 2))
    noise = 0

    def write_more(name: bytes, done: int) -> None:
        nonlocal noise
        noise += 1
        with path.open("ab") as out:
            out.write(b"more")

    index.progress = write_more
    fresh = index.again()
    assert noise and item(fresh, "x") is index.items[0] and index.items[0].changed
    fresh.progress = None
    final = fresh.again()
    assert item(final, "x").size == MIB + 4 * noise and not final.looks_changed()


def test_cut_short_while_it_is_hashed(tmp_path: Path) -> None:
    """The bytes that are missing are no content: the file is left out until the next look."""
    with (tmp_path / "x").open("wb") as out:
        out.truncate(16 * READ_BYTES)  # more than is read ahead
    (tmp_path / "y").write_bytes(b"stays")
    index = Index(BLOCK, lambda name, done: os.truncate(tmp_path / "x", 5))
    index.add(b"d", bytes(tmp_path))
    assert index.skipped == [f"{tmp_path}/x: changed while it was read; run again"]
    assert content_of(folder(index, "d")) == {b"y": b"stays"}
    assert index.looks_changed()
    fresh = index.again()
    assert content_of(folder(fresh, "d")) == {b"x": bytes(5), b"y": b"stays"} and not fresh.skipped


@pytest.mark.parametrize("way", ["grown", "truncated", "overwritten", "replaced", "removed"])
def test_changed_while_it_is_hashed(tmp_path: Path, way: str) -> None:
    """The rest of the folder is shared, the next look sets it right, and the index on disk stays sound."""
    d = tmp_path / "d"
    d.mkdir()
    path, aside = d / "x", tmp_path / "index"
    path.write_bytes(content(3 * READ_BYTES))
    (d / "y").write_bytes(b"stays")
    (tmp_path / "new").write_bytes(content(3 * READ_BYTES, 2))

    def meddle(name: bytes, done: int) -> None:
        if done != READ_BYTES:
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
        index.add(b"d", bytes(d))
        assert folder(index, "d").entry_of(b"d/y") >= 0
        index.keep()
        index.progress = None
        assert index.looks_changed()
        expected = {file.name.encode(): file.read_bytes() for file in d.iterdir()}
        assert content_of(folder(index.again(), "d")) == expected
    for _ in range(2):  # what the index on disk keeps is no wrong tree either
        with TreeCache(str(aside)) as cache:
            index = Index(BLOCK, cache=cache)
            index.add(b"d", bytes(d))
            assert content_of(folder(index, "d")) == expected
            index.keep()


def test_what_of_a_folder_is_shared_may_change_between_two_starts(tmp_path: Path) -> None:
    """The index on disk knows the list as it was asked for then."""
    d = tmp_path / "d"
    d.mkdir()
    (d / "x").write_bytes(b"x")
    os.setxattr(d / "x", "user.colour", b"red")
    wait_for_the_clock(d / "x")
    found = []
    for what in (What(), What(xattrs=True), What(xattrs=True), What(acls=True)):
        with TreeCache(str(tmp_path / "index")) as cache:
            index = Index(BLOCK, cache=cache, what=what)
            index.add(b"d", bytes(d))
            index.keep()
            found.append(entries_decode(folder(index, "d").pack.data).xattrs)
    colour = {1: {b"user.colour": b"red"}}
    assert found == [None, colour, colour, {}]


def test_rules_leave_out_paths_of_a_folder(tmp_path: Path) -> None:
    d = tmp_path / "d"
    for name in ("a.o", "keep.o", "sub/b.o", "sub/c", "build/x/y", "z"):
        (d / name).parent.mkdir(parents=True, exist_ok=True)
        (d / name).write_bytes(name.encode())
    wait_for_the_clock(d / "z")
    for given, paths in (
        ([], [b"a.o", b"build/x/y", b"keep.o", b"sub/b.o", b"sub/c", b"z"]),
        ([("include", b"keep.o"), ("exclude", b"*.o"), ("exclude", b"/build/")], [b"keep.o", b"sub/c", b"z"]),
        ([("exclude", b"sub/*")], [b"a.o", b"build/x/y", b"keep.o", b"z"]),
    ):
        with TreeCache(str(tmp_path / "index")) as cache:  # knows what was left out another time
            index = Index(BLOCK, cache=cache, what=What(rules=rules(given)))
            index.add(b"d", bytes(d))
            index.keep()
            assert sorted(content_of(folder(index, "d"))) == paths
        (d / "a.o").touch()
        assert index.looks_changed()
        assert sorted(content_of(folder(index.again(), "d"))) == paths


def test_a_segment_of_a_folder_that_changed_is_not_given_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content(3 * MIB))
    found = folder(index_of(d=tmp_path), "d")
    with (tmp_path / "a").open("r+b") as file:
        file.seek(MIB)
        file.write(b"other")
    cache = SegmentCache()
    data = found.sources()[1]
    assert [cache.load(data, segment) is not None for segment in range(3)] == [True, False, True]
    assert found.changed and found.wrong == {b"a"}
