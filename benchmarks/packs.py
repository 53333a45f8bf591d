# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Packs without a network: python benchmarks/packs.py [FOLDER]

Makes trees of small files below FOLDER (unless told, a temporary one), packs them, writes packs to another folder, and
looks at folders that are unchanged. Each figure is wall clock, CPU time of this process after it. On ext4 it takes
several times as long to make files for minutes after thousands were removed: inodes freed lately are passed over.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lcsync import _blake2s, entries, files
from lcsync.cache import TreeCache
from lcsync.const import BLOCK_BYTES, LIST_BLOCK_BYTES, SEGMENT_BYTES
from lcsync.contents import Contents
from lcsync.entries import Entries, Kind
from lcsync.pack import lay_out
from lcsync.packing import Pack, pack
from lcsync.packstore import PackStore
from lcsync.present import look
from lcsync.reuse import State, is_as_left
from lcsync.scan import scan
from lcsync.singles import FileNames

SYMBOL_BYTES = 1376


@contextmanager
def timed(what: str, per: int = 0) -> Iterator[None]:
    start, cpu = time.perf_counter(), time.process_time()
    yield
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    rate = f"  {per / took:9,.0f} files/s" if per else ""
    print(f"  {what:<58} {took:7.3f} s  {cpu:7.3f} s CPU{rate}", flush=True)


def make(folder: Path, count: int, size: int) -> None:
    """Files of ``size`` bytes, or of sizes around it if it is negative, a hundred in a folder."""
    chance = random.Random(count)
    noise = chance.randbytes(1 << 20)
    for i in range(count):
        if i % 100 == 0:
            (folder / f"d{i // 100:04}").mkdir(parents=True)
        length = size if size > 0 else min(int(chance.expovariate(-1 / size)), 1 << 19)
        at = chance.randrange(len(noise) - length)
        with open(folder / f"d{i // 100:04}" / f"file{i:06}.txt", "wb") as out:
            out.write(i.to_bytes(4, "big") + noise[at + 4 : at + length])


def packed(folder: Path, state: State | None = None) -> Pack:
    with files.closing(os.open(folder, os.O_RDONLY)) as fd:
        return pack(os.fsencode(folder), fd, BLOCK_BYTES, state=state)


def write(made: Pack, target: Path) -> State:
    """Write a pack to an empty folder, segment by segment, as they come from the network."""
    count = int((made.layout.sizes > 0).sum())
    target.mkdir()
    with (
        files.closing(os.open(made.path, os.O_RDONLY)) as fd,
        Contents(fd, made.entries.paths, made.layout) as contents,
    ):
        segments = [contents.read_at(min(SEGMENT_BYTES, made.layout.length - at), at)
                    for at in range(0, made.layout.length, SEGMENT_BYTES)]  # fmt: skip
    with files.closing(os.open(target, os.O_RDONLY)) as fd, timed("written, synced, in place", count):
        here = scan(fd)
        with PackStore(fd, made.entries, made.layout, here, np.full(len(made.entries), -1)) as store:
            store.begin()
            for number, data in enumerate(segments):
                store.write_at(data, number * SEGMENT_BYTES)
                store.settle(number * SEGMENT_BYTES, len(data))
            store.finish()
            versions = store.versions(scan(fd))
    return State(made.root, b"", BLOCK_BYTES, made.entries.paths, versions, made.data, made.tree.leaves)


def fsync_each(folder: Path, target: Path) -> None:
    """What a fsync and a rename for each file cost, in the same minute."""
    found = sorted(folder.rglob("*.txt"))[:500]
    data = [path.read_bytes() for path in found]
    target.mkdir()
    with timed("for comparison: fsync for each of 500", len(found)):
        for path, content in zip(found, data, strict=True):
            fd = os.open(target / "temp", os.O_CREAT | os.O_WRONLY)
            os.write(fd, content)
            os.fsync(fd)
            os.close(fd)
            os.rename(target / "temp", target / path.name)


def blocks_of(data: bytes, size: int) -> set[bytes]:
    return {data[at : at + size] for at in range(0, len(data), size)}


def insertion(made: Pack) -> None:
    """What one more small file changes, in the middle of the tree."""
    after = made.path + b"/d0050/file005000.new"
    with open(after, "wb") as out:
        out.write(b"new" * 1000)
    again = packed(Path(os.fsdecode(made.path)))
    os.unlink(after)
    old = {leaf.tobytes() for leaf in made.tree.leaves}
    news = [i for i, leaf in enumerate(again.tree.leaves) if leaf.tobytes() not in old]
    lists = blocks_of(again.data, LIST_BLOCK_BYTES) - blocks_of(made.data, LIST_BLOCK_BYTES)
    # leaves of the segments that differ; of the list, all of them: its blocks may be anywhere
    leaves = 32 * (SEGMENT_BYTES // BLOCK_BYTES) * len({i * BLOCK_BYTES // SEGMENT_BYTES for i in news})
    leaves += 32 * len(again.list_tree.leaves)
    total = len(news) * BLOCK_BYTES + len(lists) * LIST_BLOCK_BYTES + leaves + 64 * len(again.tree.outline)
    print(f"  one file of 3000 bytes more: {len(news)} blocks of content and {len(lists)} of the list are new, "
          f"with hashes {total / 1024:.0f} KiB on the wire")  # fmt: skip


def small(folder: Path) -> None:
    print("10,000 files of 10 KiB")
    make(folder / "a", 10_000, 10240)
    made = packed(folder / "a")
    sent = sum(int((~made.layout.padding(s, SYMBOL_BYTES)).sum()) for s in range(made.layout.segments)) * SYMBOL_BYTES
    whole = int(made.layout.sizes.sum())
    print(f"  pack {made.layout.length / whole:.3f} of the content, {sent / whole:.3f} of it sent; "
          f"{made.layout.segments} segments, list {len(made.data)} bytes")  # fmt: skip
    write(made, folder / "b")
    write(made, folder / "c")
    fsync_each(folder / "a", folder / "d")
    insertion(made)


def many(folder: Path) -> None:
    print("50,000 files, 2 GiB")
    make(folder / "e", 50_000, -43_000)
    with timed("share starts: all read and hashed", 50_000):
        made = packed(folder / "e")
    state = write(made, folder / "f")
    with TreeCache(str(folder / "index")) as cache, files.closing(os.open(folder / "f", os.O_RDONLY)) as fd:
        inode = os.fstat(fd).st_ino
        cache.put_folder(1, inode, BLOCK_BYTES, state.to_bytes())
        for _ in range(3):
            with timed("unchanged, one packet: state read, folder looked at"):
                again = State.from_bytes(cache.folder(1, inode, BLOCK_BYTES) or b"")
                here = scan(fd)
                same = again.root == made.root and is_as_left(again, here.paths, here.versions).all()
            assert same
        (folder / "f" / "extra").write_bytes(b"x")
        with timed("the same with a file too many"):
            here = scan(fd)
            left = is_as_left(again, here.paths, here.versions)
        assert left.sum() == len(left) - 1  # but for the folder
    for _ in range(2):
        with timed("share starts again, with the state", 50_000):
            packed(folder / "e", made.state())
    for path in sorted((folder / "e").rglob("*.txt"))[::100]:
        with open(path, "r+b") as out:
            out.write(b"changed")
    news = packed(folder / "e", made.state())
    differ = (
        (news.tree.leaves != made.tree.leaves).any(axis=1).sum() if news.layout.length == made.layout.length else -1
    )
    lists = blocks_of(news.data, LIST_BLOCK_BYTES) - blocks_of(made.data, LIST_BLOCK_BYTES)
    blocks = len(news.tree.leaves)
    print(f"  1 % changed: {differ} of {blocks} blocks, {len(lists)} of {len(news.list_tree.leaves)} in the list")
    with files.closing(os.open(folder / "f", os.O_RDONLY)) as fd:
        for what, known in (("with the state", state), ("all read", None)):
            with (
                timed(f"what is here of it, {what}", 50_000),
                look(fd, entries.decode(news.data), news.layout, known) as present,
            ):
                pass
            same = (present.blocks.leaves == news.tree.leaves).all(axis=1)
            assert (~same).sum() == differ


def codec() -> None:
    for count in (100_000, 1_000_000):
        print(f"{count:,} files, in memory")
        paths = [b"dir%03d/sub%d/file%07d.txt" % (i % 997, i % 7, i) for i in range(count)]
        above = {b""} | {p[:6] for p in paths} | {p[:11] for p in paths}
        paths = sorted([*paths, *above])
        kinds = np.array([Kind.FOLDER if p in above else Kind.FILE for p in paths], np.uint8)
        chance = np.random.default_rng(1)
        sizes = np.where(kinds == Kind.FILE, chance.integers(0, 20_000, len(paths)), 0)
        times = chance.integers(1 << 60, (1 << 60) + (1 << 56), len(paths))
        owners = np.zeros(len(paths), np.uint32)
        listed = Entries(paths, kinds, sizes, modes=np.full(len(paths), 0o644, np.uint16), mtimes_ns=times,
                         uids=owners, gids=owners, users={0: b"root"}, groups={0: b"root"})  # fmt: skip
        with timed("layout"):
            lay_out(paths, sizes, BLOCK_BYTES)
        with timed("list encoded"):
            data = entries.encode(listed)
        print(f"  {len(data) / len(paths):.1f} bytes an entry")
        with timed("list decoded and checked"):
            entries.decode(data)
        with timed("names of all files hashed"):
            names = FileNames(b"folder", paths, np.flatnonzero(kinds == Kind.FILE))
        print(f"  {names.nbytes / 1e6:.1f} MB of names")


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
          f"BLAKE2s {_blake2s.kernel()}; {platform.release()}")  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="lcsync-packs-", dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        codec()
        small(folder)
        many(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
