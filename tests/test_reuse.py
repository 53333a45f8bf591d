# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""States of folders: a hash that one tells is the hash of what is there, as slow Python finds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync.cache import TreeCache
from lcsync.columns import ColumnError
from lcsync.entries import Entries, Kind, encode
from lcsync.merkle import hash_leaves
from lcsync.pack import Layout, lay_out
from lcsync.reuse import State, is_as_left, known_blocks, numbers_of, readable_blocks

BLOCK = 1024
Files = dict[bytes, tuple[int, int]]  # size and version
SIZES = st.sampled_from([0, 1, 100, 400, 1023, 1024, 1025, 2048, 3000])
TREES = st.dictionaries(st.sampled_from([b"%c" % c for c in range(97, 120)]), st.tuples(SIZES, st.integers(0, 1)))


def bytes_of(size: int, version: int, name: bytes) -> bytes:
    return bytes((name[0] * 7 + version + i * 13) % 251 for i in range(size))


def packed(files: Files) -> tuple[Entries, Layout, np.ndarray, np.ndarray]:
    """Entries, layout, block hashes and versions."""
    paths = [b"", *sorted(files)]
    sizes = np.array([0, *(files[p][0] for p in paths[1:])], np.int64)
    kinds = np.array([Kind.FOLDER, *[Kind.FILE] * len(files)], np.uint8)
    layout = lay_out(paths, sizes, BLOCK)
    data = bytearray(layout.length)
    for path, start in zip(paths, layout.starts.tolist(), strict=True):
        if path:
            content = bytes_of(*files[path], path)
            data[start : start + len(content)] = content
    versions = np.array([[9, 9, 9, 9, 9], *([*files[p], 1, 2, 3] for p in paths[1:])], np.int64)
    return Entries(paths, kinds, sizes), layout, hash_leaves(data, BLOCK), versions


def state_of(files: Files) -> State:
    entries, _, leaves, versions = packed(files)
    return State(b"r" * 32, b"how", BLOCK, entries.paths, versions, encode(entries), leaves)


@settings(deadline=None)
@given(TREES, TREES)
def test_what_a_state_knows_is_so(old: Files, new: Files) -> None:
    state = state_of(old)
    entries, layout, leaves, versions = packed(new)
    same = is_as_left(state, entries.paths, versions)
    assert [bool(s) for s in same[1:]] == [old[p] == new.get(p) for p in sorted(old)]
    origins = numbers_of(entries.paths, state.paths)
    origins[(origins >= 0) & ~(same[origins] & (entries.kinds == Kind.FILE))] = -1
    blocks = known_blocks(layout, state, origins)
    assert (blocks.leaves[blocks.known] == leaves[: len(blocks.known)][blocks.known]).all()
    if old == new and layout.length:
        assert blocks.known.all()
    for entry, start, at, size in layout.pieces(0, layout.length):
        if size >= 2 * BLOCK and origins[entry] >= 0 and not start:
            assert blocks.known[at // BLOCK]


@settings(deadline=None)
@given(TREES, st.data())
def test_readable_is_what_could_be_there(new: Files, data: st.DataObject) -> None:
    _, layout, _, _ = packed(new)
    count = len(layout.sizes)
    sizes = np.array(data.draw(st.lists(SIZES, min_size=count, max_size=count)), np.int64)
    sources = np.array([data.draw(st.sampled_from([-1, i])) for i in range(count)], np.int64)
    marks = readable_blocks(layout, sources, sizes)
    for block in range(layout.blocks):
        want = True
        for entry, start, _, size in layout.pieces(block * BLOCK, BLOCK):
            have = sizes[sources[entry]] if sources[entry] >= 0 else 0
            want &= have >= start + size if layout.sizes[entry] >= BLOCK else have == layout.sizes[entry]
        assert bool(marks[block]) == want


def test_states_are_kept(tmp_path: object) -> None:
    state = state_of({b"a": (3000, 0), b"b": (5, 1)})
    data = state.to_bytes()
    with TreeCache(f"{tmp_path}/index") as cache:
        assert cache.folder(1, 2, BLOCK) is None
        cache.put_folder(1, 2, BLOCK, b"other")
        cache.put_folder(1, 2, BLOCK, data)
        cache.put_folder(1, 3, BLOCK, bytes(9 << 20))
    with TreeCache(f"{tmp_path}/index") as cache:
        again = State.from_bytes(cache.folder(1, 2, BLOCK) or b"")
        assert cache.folder(1, 3, BLOCK) == bytes(9 << 20)
        assert cache.folder(1, 2, 2 * BLOCK) is None
        cache.put_folder(1, 3, BLOCK, b"")
        assert cache.folder(1, 3, BLOCK) is None
    assert (again.root, again.how, again.paths, again.data) == (state.root, state.how, state.paths, state.data)
    assert np.array_equal(again.versions, state.versions) and np.array_equal(again.leaves, state.leaves)


def test_a_full_index_lets_folders_go(tmp_path: object) -> None:
    with TreeCache(f"{tmp_path}/index", bytes_max=1 << 20) as cache:
        for i in range(20):
            cache.put_folder(1, i, BLOCK, bytes(200_000))
        kept = sum(cache.folder(1, i, BLOCK) is not None for i in range(20))
    assert 1 <= kept <= 5


def test_a_broken_folder_in_the_index_is_no_folder(tmp_path: object) -> None:
    said: list[str] = []
    with TreeCache(f"{tmp_path}/index", said.append) as cache:
        cache.put_folder(1, 2, BLOCK, b"x" * 100)
        assert cache._db is not None
        cache._db.execute("UPDATE folder_part SET data = ?", (b"y" * 100,))
        assert cache.folder(1, 2, BLOCK) is None
    assert "checksum" in said[0]


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0\0\0\1x"])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises((ColumnError, ValueError)):
        State.from_bytes(data)
