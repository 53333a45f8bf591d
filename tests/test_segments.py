# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Segments on their way from shared files to the wire: read once, right or not at all, in bounded memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from programs import BLOCK, MIB, content

from lcsync._wire import Batch
from lcsync.index import Index, Item
from lcsync.segments import OpenFiles, SegmentCache
from lcsync.wire import source_geometry, symbol_bytes

SYMBOL = symbol_bytes(1500)


def items_of(*paths: Path) -> list[Item]:
    index = Index(BLOCK)
    for path in paths:
        index.add(path.name.encode(), bytes(path))
    return index.items


def file_of(path: Path, data: bytes) -> Item:
    path.write_bytes(data)
    return items_of(path)[0]


def descriptors(path: Path) -> int:
    """How often this process has a file open."""
    return sum(os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in os.listdir("/proc/self/fd"))


def test_the_last_used_stay_in_memory(tmp_path: Path) -> None:
    item = file_of(tmp_path / "x", content(5 * MIB))
    cache = SegmentCache(2 * MIB)
    for segment in (0, 1, 2, 3, 4, 4, 3):
        cache.load(item, segment)
    assert cache.read_bytes == 5 * MIB and cache.held_bytes == 2 * MIB
    cache.load(item, 0)
    assert cache.read_bytes == 6 * MIB and cache.held_bytes == 2 * MIB


def test_short_segments_count_what_they_take(tmp_path: Path) -> None:
    items = [file_of(tmp_path / f"x{i}", content(10_000, i)) for i in range(100)]
    cache = SegmentCache(MIB)
    for _ in range(2):
        assert all(cache.load(item, 0) == content(10_000, i) for i, item in enumerate(items))
    assert cache.read_bytes == cache.held_bytes == 100 * 10_000
    large = file_of(tmp_path / "large", content(MIB))
    assert cache.load(large, 0) == content(MIB)
    assert cache.held_bytes == MIB


def test_buffers_are_used_again_but_for_those_in_use(tmp_path: Path) -> None:
    data = content(40 * MIB)
    item = file_of(tmp_path / "x", data)
    geometry = source_geometry(len(data), BLOCK, SYMBOL)
    cache = SegmentCache(2 * MIB)
    first = cache.load(item, 0)
    assert first is not None
    batch = Batch(SYMBOL)
    batch.add(geometry, first, 0, 0, 1, bytes(14), 0, 0, 768)
    part = memoryview(first)[5:100]
    before = batch.packets()
    places = {id(view.obj) for i in range(1, 40) if (view := cache.load(item, i)) is not None}
    assert len(places) <= 4
    assert batch.packets() == before, "a batch never changes under the sender's hands"
    assert part == data[5:100]
    batch.clear()
    assert cache.held_bytes == 2 * MIB


def test_equal_content_is_read_once_from_whatever_file(tmp_path: Path) -> None:
    data = content(2 * MIB)
    one, other = file_of(tmp_path / "one", data), file_of(tmp_path / "other", data)
    cache = SegmentCache()
    for item in (one, other, one):
        assert [bytes(cache.load(item, i) or b"") for i in range(2)] == [data[:MIB], data[MIB:]]
    assert cache.read_bytes == 2 * MIB


def test_files_stay_open_but_not_too_many(tmp_path: Path) -> None:
    paths = [tmp_path / f"x{i}" for i in range(6)]
    items = [file_of(path, content(2 * MIB, i)) for i, path in enumerate(paths)]
    cache = SegmentCache(MIB, OpenFiles(4))
    for segment in (0, 1):
        for item in items:
            assert cache.load(item, segment) is not None
    assert [descriptors(path) for path in paths] == [0, 0, 1, 1, 1, 1]
    cache.opened.close()
    assert sum(map(descriptors, paths)) == 0
    assert cache.load(items[0], 0) == content(2 * MIB, 0)[:MIB]
    del cache
    assert sum(map(descriptors, paths)) == 0


@pytest.mark.parametrize("way", ["in place", "renamed over", "cut short", "removed"])
def test_an_open_file_that_changes_gives_nothing_wrong(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    old, new = content(3 * MIB), content(3 * MIB, 2)
    item = file_of(path, old)
    cache = SegmentCache()
    assert cache.load(item, 0) == old[:MIB]
    if way == "in place":
        path.write_bytes(new)
    elif way == "renamed over":
        (tmp_path / "new").write_bytes(new)
        (tmp_path / "new").rename(path)
    elif way == "cut short":
        os.truncate(path, MIB + 5)
    else:
        path.unlink()
    assert cache.load(item, 1) is None and item.changed
    assert cache.load(item, 0) == old[:MIB], "what is in memory has the hash still"
    assert cache.held_bytes == MIB


def test_a_copy_in_its_place_serves_as_well(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = content(2 * MIB)
    item = file_of(path, data)
    cache = SegmentCache()
    assert cache.load(item, 0) is not None
    (tmp_path / "new").write_bytes(data)
    (tmp_path / "new").rename(path)
    assert cache.load(item, 1) == data[MIB:]
    assert descriptors(path) == 1
