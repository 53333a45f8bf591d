# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Packs in folders: what arrives is what was shared, whatever was there; what is there is not sent, nor read twice."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from packs import Carried, carry, contents_of, pack_of

from lcsync import const, files, packstore
from lcsync.contents import Contents
from lcsync.entries import Kind, decode
from lcsync.errors import DestinationError
from lcsync.packstore import PackStore
from lcsync.reuse import State, find_sources, is_as_left
from lcsync.scan import scan

BLOCK = 1024
LONG_AGO_NS = 1_600_000_000_000_000_000


def make(folder: Path, chance: random.Random, count: int, large: int = 200_000) -> None:
    """A tree of random files, some of it links."""
    for i in range(count):
        parts = [f"d{chance.randrange(4)}" for _ in range(chance.randrange(3))]
        path = folder.joinpath(*parts, f"f{i:03}")
        path.parent.mkdir(parents=True, exist_ok=True)
        size = chance.choice([0, 1, 100, 1023, 1024, 1025, 3000, chance.randrange(large)])
        path.write_bytes(chance.randbytes(size))
        os.utime(path, ns=(LONG_AGO_NS + i, LONG_AGO_NS + i * 10**9))
    (folder / "empty").mkdir(parents=True, exist_ok=True)
    (folder / "link").symlink_to("d0/../nowhere")
    first = min(p for p in folder.rglob("f*") if p.is_file())
    os.link(first, folder / "zz-hard")


def mix(folder: Path, chance: random.Random) -> None:
    """Change, move, swap, remove and add some files."""
    names = [p for p in sorted(folder.rglob("f*")) if p.is_file()]
    for path in names:
        what = chance.randrange(10)
        data = path.read_bytes()
        if what == 0:
            path.unlink()
        elif what == 1 and data:
            at = chance.randrange(len(data))
            path.write_bytes(data[:at] + chance.randbytes(5) + data[at + 5 :])
        elif what == 2:
            path.write_bytes(data + chance.randbytes(700))
        elif what == 3:
            path.rename(path.with_name(path.name + "-moved"))
        elif what == 4:
            path.write_bytes(data[: len(data) // 2])
        elif what == 5:
            other = chance.choice(names)
            if other.exists() and other != path:
                spare = folder / "spare"
                path.rename(spare)
                other.rename(path)
                spare.rename(other)


@pytest.mark.parametrize("seed", range(12))
def test_what_arrives_is_what_was_shared(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "target"
    make(source, chance, 60)
    first = carry(pack_of(source), target, chance=chance if seed % 2 else None)
    assert contents_of(target) == contents_of(source)
    if seed % 3:
        mix(source, chance)
    if seed % 4:
        mix(target, chance)
    again = carry(pack_of(source), target, first.state if seed % 5 else None, chance if seed % 2 else None)
    there = contents_of(target)
    assert contents_of(source).items() <= there.items()
    assert not [name for name in there if "lcsync-" in name]
    assert again.wire < first.wire or not first.wire


@pytest.fixture
def carried(tmp_path: Path) -> tuple[Path, Path, Carried]:
    source, target = tmp_path / "source", tmp_path / "target"
    make(source, random.Random(5), 80)
    first = carry(pack_of(source), target)
    return source, target, first


def test_a_folder_as_it_was_left_needs_nothing(carried: tuple[Path, Path, Carried]) -> None:
    source, target, first = carried
    with files.closing(os.open(target, os.O_RDONLY)) as fd:
        now = scan(fd)
    assert is_as_left(first.state, now.paths, now.versions).all()
    again = carry(pack_of(source), target, first.state)
    assert (again.wire, again.hashed, again.done.written) == (0, 0, 0)
    (target / "link").unlink()
    with files.closing(os.open(target, os.O_RDONLY)) as fd:
        now = scan(fd)
    assert is_as_left(first.state, now.paths, now.versions).sum() == len(first.state.paths) - 2  # and the folder


def test_without_a_state_all_is_read_and_nothing_written(carried: tuple[Path, Path, Carried]) -> None:
    source, target, _ = carried
    inodes = {p: p.stat().st_ino for p in target.rglob("f*")}
    again = carry(pack_of(source), target)
    assert (again.wire, again.done.written) == (0, 0)
    assert again.hashed == pack_of(source).layout.blocks
    assert {p: p.stat().st_ino for p in target.rglob("f*")} == inodes


def test_a_changed_file_costs_its_blocks(carried: tuple[Path, Path, Carried]) -> None:
    source, target, first = carried
    victim = max(source.rglob("f*"), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[5000] ^= 1
    victim.write_bytes(data)
    untouched = {p: p.stat().st_ino for p in target.rglob("f*") if p.name != victim.name}
    again = carry(pack_of(source), target, first.state)
    assert (again.wire, again.done.written) == (1, 1)
    assert again.hashed == 0  # the state knows the rest
    assert {p: p.stat().st_ino for p in target.rglob("f*") if p.name != victim.name} == untouched
    assert contents_of(target) == contents_of(source)


def test_a_neighbour_in_a_shared_block_is_not_written_again(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    for i in range(4):
        (source / f"f{i}").write_bytes(bytes([i + 1]) * 200)
    first = carry(pack_of(source, 16384), target)
    assert pack_of(source, 16384).layout.blocks == 1
    (source / "f2").write_bytes(b"x" * 200)
    inode = (target / "f1").stat().st_ino
    again = carry(pack_of(source, 16384), target, first.state)
    assert (again.wire, again.done.written, again.done.kept) == (1, 1, 3)
    assert (target / "f1").stat().st_ino == inode
    assert contents_of(target) == contents_of(source)


def test_a_moved_folder_is_found(carried: tuple[Path, Path, Carried]) -> None:
    source, target, first = carried
    shutil.move(source / "d0", source / "renamed")
    again = carry(pack_of(source), target, first.state)
    assert again.wire == 0
    shutil.rmtree(target / "d0", ignore_errors=True)
    assert contents_of(target) == contents_of(source)


@pytest.mark.parametrize("with_state", [True, False])
def test_a_file_renamed_and_changed_is_found_by_its_blocks(tmp_path: Path, with_state: bool) -> None:
    """No name, size or time tells: the hashes of its blocks do, in the state or by reading what stands for nothing."""
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    (source / "a").write_bytes(random.Random(1).randbytes(100 * BLOCK))
    first = carry(pack_of(source), target)
    (source / "a").rename(source / "b")
    with open(source / "b", "ab") as f:
        f.write(b"more")
    again = carry(pack_of(source), target, first.state if with_state else None)
    assert again.wire == 1
    (target / "a").unlink()
    assert contents_of(target) == contents_of(source)


def test_the_search_has_an_end(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    target.mkdir()
    (source / "a").write_bytes(random.Random(1).randbytes(10 * BLOCK))
    (target / "x").write_bytes(random.Random(1).randbytes(10 * BLOCK) + bytes(40 * BLOCK))
    assert carry(pack_of(source), target).wire == 10  # five times what lacks is not read


def test_two_files_that_change_places(tmp_path: Path) -> None:
    """Each is the source of the other: none may be gone before it was copied."""
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    for name, byte, when in (("a", b"1", 5), ("b", b"2", 6)):
        (source / name).write_bytes(byte * 5000 + name.encode())
        os.utime(source / name, ns=(when * 10**9, when * 10**9))
    first = carry(pack_of(source), target)
    for name, when in (("a", 5), ("b", 6)):
        os.utime(target / name, ns=(when * 10**9, when * 10**9))
    (target / "b").rename(target / "c")
    (source / "a").rename(source / "x")
    (source / "b").rename(source / "a")
    (source / "x").rename(source / "b")
    again = carry(pack_of(source), target, first.state)
    (target / "c").unlink()
    assert contents_of(target) == contents_of(source)
    assert again.wire < first.wire


def test_few_descriptors_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packstore, "PARTS_OPEN_MAX", 5)
    source, target = tmp_path / "s", tmp_path / "t"
    for i in range(100):
        (source / f"d{i}").mkdir(parents=True)
        (source / f"d{i}" / "f").write_bytes(random.Random(i).randbytes(3000))
    made = pack_of(source)
    target.mkdir()
    with (
        files.closing(os.open(source, os.O_RDONLY)) as from_fd,
        files.closing(os.open(target, os.O_RDONLY)) as to_fd,
        Contents(from_fd, list(made.entries.paths), made.layout) as contents,
    ):
        here = scan(to_fd)
        entries = decode(made.data)
        with PackStore(to_fd, entries, made.layout, here, np.full(len(entries), -1)) as store:
            store.begin()
            before = len(os.listdir("/proc/self/fd"))
            data = contents.read_at(made.layout.length, 0)
            for turn in range(3):
                for block in range(turn, made.layout.blocks, 3):
                    store.write_at(data[block * BLOCK : (block + 1) * BLOCK], block * BLOCK)
                    assert len(os.listdir("/proc/self/fd")) <= before + 7 + const.FOLDERS_OPEN_MAX
            assert not [p for p in target.rglob("f")]
            store.settle(0, made.layout.length)
            store.finish()
    assert contents_of(target) == contents_of(source)


def empty(paths: int) -> np.ndarray:
    return np.full(paths, -1, np.int64)


def test_nothing_unsettled_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    make(source, random.Random(1), 20)
    made = pack_of(source)
    target.mkdir()
    with files.closing(os.open(target, os.O_RDONLY)) as to_fd:
        with PackStore(to_fd, made.entries, made.layout, scan(to_fd), empty(len(made.entries))) as store:
            store.begin()
            store.write_at(bytes(made.layout.length), 0)
            store.flush()
        assert not [p for p in target.rglob("*") if p.is_file() and p.stat().st_size]


@pytest.mark.parametrize("obstacle", ["folder", "fifo"])
def test_what_is_in_the_way_of_a_file_is_said(tmp_path: Path, obstacle: str) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    (source / "a").write_bytes(b"x")
    target.mkdir()
    (target / "a").mkdir() if obstacle == "folder" else os.mkfifo(target / "a")
    with pytest.raises(DestinationError, match=f"a: is a {obstacle}"):
        carry(pack_of(source), target)


def test_a_link_in_the_way_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "s", tmp_path / "t", tmp_path / "outside"
    (source / "a").mkdir(parents=True)
    (source / "a" / "b").write_bytes(b"x")
    target.mkdir()
    outside.mkdir()
    (target / "a").symlink_to(outside)
    with pytest.raises(DestinationError):
        carry(pack_of(source), target)
    assert not list(outside.iterdir())


def test_a_folder_replaced_by_a_link_under_way_is_not_followed(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "s", tmp_path / "t", tmp_path / "outside"
    (source / "a").mkdir(parents=True)
    (source / "a" / "b").write_bytes(b"x")
    target.mkdir()
    outside.mkdir()
    made = pack_of(source)
    with files.closing(os.open(target, os.O_RDONLY)) as to_fd:
        here = scan(to_fd)
        (target / "a").symlink_to(outside)
        with (
            PackStore(to_fd, made.entries, made.layout, here, empty(3)) as store,
            pytest.raises(DestinationError, match="in the way"),
        ):
            store.begin()
    assert not list(outside.iterdir())


def test_links_in_the_place_of_files_are_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    target.mkdir()
    (source / "a").write_bytes(b"x" * 5000)
    (tmp_path / "outside").write_bytes(b"mine")
    (target / "a").symlink_to(tmp_path / "outside")
    carry(pack_of(source), target)
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert contents_of(target) == contents_of(source)


def test_modes_of_replaced_files_stay(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    target.mkdir()
    (source / "a").write_bytes(b"x" * 5000)
    (target / "a").write_bytes(b"old")
    (target / "a").chmod(0o640)
    carry(pack_of(source), target)
    assert (target / "a").stat().st_mode & 0o7777 == 0o640
    umask = os.umask(0o027)
    try:
        (target / "a").unlink()
        carry(pack_of(source), target)
    finally:
        os.umask(umask)
    assert (target / "a").stat().st_mode & 0o7777 == 0o640


def test_a_source_that_changes_under_way_is_said(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    target.mkdir()
    (source / "a").write_bytes(b"x" * 5000)
    (target / "a").write_bytes(b"y" * 4000)
    made = pack_of(source)
    with files.closing(os.open(target, os.O_RDONLY)) as fd:
        here = scan(fd)
        with PackStore(fd, made.entries, made.layout, here, np.array([-1, 1])) as store:
            (target / "a").write_bytes(b"z" * 4001)
            with pytest.raises(DestinationError, match="changed while"):
                store.write_at(b"x" * 1024, 0)


def test_a_file_written_to_after_it_was_left_is_not_taken_for_right(carried: tuple[Path, Path, Carried]) -> None:
    source, target, first = carried
    victim = max(target.rglob("f*"), key=lambda p: p.stat().st_size)
    info = victim.stat()
    victim.write_bytes(victim.read_bytes()[::-1])
    os.utime(victim, ns=(info.st_atime_ns, info.st_mtime_ns))  # a liar: only the time of change tells
    again = carry(pack_of(source), target, first.state)
    assert again.done.written == 1
    assert contents_of(target) == contents_of(source)


# --- sharing ---


def test_a_pack_knows_what_a_state_knows(tmp_path: Path) -> None:
    make(tmp_path / "s", random.Random(3), 50)
    first = pack_of(tmp_path / "s")
    state = State(first.root, b"", BLOCK, first.entries.paths, first.found.versions[first.rows], first.data,
                  first.tree.leaves)  # fmt: skip
    state.leaves[7] ^= 1  # seen in the next one if it is not read again
    second = pack_of(tmp_path / "s", state=state)
    assert (second.tree.leaves == state.leaves).all()
    assert second.data == first.data
    assert not second.looks_changed()
    (tmp_path / "s" / "new").write_bytes(b"x")
    assert second.looks_changed()


def test_files_that_cannot_be_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "s"
    make(source, random.Random(4), 30)
    read = Contents.read

    def deny(self: Contents, entry: int, view: memoryview, start: int) -> int:
        if self.paths[entry] == victim:
            raise PermissionError
        return read(self, entry, view, start)

    whole = pack_of(source)
    victim = whole.entries.paths[int(np.argmax(whole.layout.sizes))]
    monkeypatch.setattr(Contents, "read", deny)
    less = pack_of(source)
    assert victim not in less.entries.paths and len(less.entries) == len(whole.entries) - 1
    assert len(less.skipped) == 1
    monkeypatch.undo()
    os.unlink(os.path.join(os.fsencode(source), victim))
    assert pack_of(source).tree.root == less.tree.root


def test_single_files_have_the_tree_of_their_content(tmp_path: Path) -> None:
    source = tmp_path / "s"
    make(source, random.Random(6), 40)
    made = pack_of(source)
    with (
        files.closing(os.open(source, os.O_RDONLY)) as fd,
        Contents(fd, list(made.entries.paths), made.layout) as contents,
    ):
        for entry in made.entries.of_kind(Kind.FILE):
            path = source / os.fsdecode(made.entries.paths[entry])
            with files.closing(os.open(path, os.O_RDONLY)) as file_fd:
                want = files.read_block_hashes(file_fd, path.stat().st_size, BLOCK)
            tree, tail = made.single(contents, entry)
            assert tree.root == want.root
            assert path.read_bytes().endswith(tail)


def test_sources_are_guessed_by_time_then_by_name(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_bytes(b"12345")
        os.utime(source / name, ns=(ord(name) * 10**9, ord(name) * 10**9))
    entries = pack_of(source).entries
    paths = [b"", b"a", b"x", b"y", b"z/c"]
    kinds = np.array([Kind.FOLDER, *[Kind.FILE] * 4])
    sizes = np.array([0, 5, 5, 5, 5])
    times = np.array([0, 0, ord("b") * 10**9, 1, 2])
    assert find_sources(entries, paths, kinds, sizes, times).tolist() == [-1, 1, 2, 4]
    assert find_sources(entries, paths, kinds, sizes - 1, times).tolist() == [-1, 1, -1, -1]


@pytest.mark.skipif(os.geteuid() != 0, reason="root may write anywhere, and this becomes somebody else")
def test_folders_that_their_owner_may_not_write_to(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    for folder in (source / "d", target / "d"):
        folder.mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"new")
    (target / "d" / "f").write_bytes(b"older")
    for path in (target, target / "d", target / "d" / "f"):
        os.chown(path, 12345, 12345)
    (target / "d").chmod(0o555)
    made = pack_of(source)
    above = [tmp_path, *list(tmp_path.parents)[:-2]]
    modes = [path.stat().st_mode for path in above]
    for path in above:
        path.chmod(0o755)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgid(12345)
            os.setuid(12345)
            carry(made, target)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for path, mode in zip(above, modes, strict=True):
        path.chmod(mode & 0o7777)
    assert code == 0
    assert (target / "d" / "f").read_bytes() == b"new"
    assert (target / "d").stat().st_mode & 0o777 == 0o555
