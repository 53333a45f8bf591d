# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Packs: every byte of every file has one place, and a change of a file moves few others."""

from __future__ import annotations

import random
from hashlib import blake2s
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync.const import OBJECT_BYTES_MAX, SEGMENT_BYTES
from lcsync.pack import Layout, PackError, Sent, lay_out, pack_root, path_hashes
from lcsync.wire import source_geometry

NAMES = st.binary(min_size=1, max_size=8)
SIZES = st.integers(0, 9000) | st.sampled_from([0, 1023, 1024, 1025, 2048, (1 << 20) + 700])
FILES = st.dictionaries(NAMES, SIZES, max_size=30)


def laid(files: dict[bytes, int], block_bytes: int = 1024) -> Layout:
    paths = sorted(files)
    return lay_out(paths, np.array([files[p] for p in paths], np.int64), block_bytes)


@settings(deadline=None)
@given(FILES, st.sampled_from([1024, 4096, 16384]))
def test_every_byte_has_one_place(files: dict[bytes, int], block_bytes: int) -> None:
    layout = laid(files, block_bytes)
    sizes = layout.sizes.tolist()
    taken = sorted((start, start + size) for start, size in zip(layout.starts.tolist(), sizes, strict=True) if size)
    assert all(a[1] <= b[0] for a, b in pairwise(taken))
    assert layout.length == max((end for _, end in taken), default=0)
    for start, size in zip(layout.starts.tolist(), sizes, strict=True):
        if size >= block_bytes:
            assert start % block_bytes == 0
        elif size:
            assert start // block_bytes == (start + size - 1) // block_bytes
    step = 777 if layout.length < 1 << 17 else 77_777
    parts = [p for at in range(0, layout.length, step) for p in layout.pieces(at, step)]
    for entry, size in enumerate(sizes):
        mine = [(p.offset, p.size) for p in parts if p.entry == entry]
        assert sum(n for _, n in mine) == size
        assert [o for o, _ in mine] == [sum(n for _, n in mine[:i]) for i in range(len(mine))]
    for at in range(0, layout.length, step):
        for piece in layout.pieces(at, step):
            assert layout.starts[piece.entry] + piece.offset == at + piece.at
        assert [p.entry for p in layout.pieces(at, step)] == layout.between(at, step).tolist()


@settings(deadline=None)
@given(FILES, st.sampled_from([(1024, 1376), (16384, 1376), (4096, 1152), (16384, 8896)]))
def test_padding_is_what_no_file_has(files: dict[bytes, int], sizes: tuple[int, int]) -> None:
    block_bytes, symbol_bytes = sizes
    layout = laid(files, block_bytes)
    have = np.zeros(layout.length, bool)
    for start, size in zip(layout.starts.tolist(), layout.sizes.tolist(), strict=True):
        have[start : start + size] = True
    filled = layout.filled(0, layout.blocks)
    for block in range(layout.blocks):
        part = have[block * block_bytes : (block + 1) * block_bytes]
        assert part[: filled[block]].all() and not part[filled[block] :].any()
        assert filled[block]
    geometry = source_geometry(layout.length, block_bytes, symbol_bytes)
    assert layout.segments == (geometry.segments if layout.length else 0)
    for segment in range(layout.segments):
        marks = layout.padding(segment, symbol_bytes)
        assert len(marks) == geometry.symbols(segment)
        for esi, padding in enumerate(marks.tolist()):
            at, size = geometry.place(segment, esi)
            at += segment * SEGMENT_BYTES
            assert padding == (not have[at : at + size].any())
    sent = Sent(layout, symbol_bytes)
    for segment in range(layout.segments):
        marks = np.ones(geometry.symbols(segment), bool)
        for first, stop in sent.runs(segment):
            marks[first:stop] = False
        assert marks.tolist() == layout.padding(segment, symbol_bytes).tolist()
        assert sent.padding(segment, 1) == marks.sum()
    assert sent.padding(0, layout.segments) == sum(sent.padding(segment, 1) for segment in range(layout.segments))


def test_the_layout_is_the_one_of_the_protocol() -> None:
    """Written down by hand: a block is 16 KiB; b and d share one, e does not fit, f begins its own blocks."""
    files = {b"a": 0, b"b": 5000, b"c": 40_000, b"d": 6000, b"e": 10_000, b"f": 16_384, b"g": 1}
    small = [p for p in files if files[p] < 16384]
    assert not any(int(path_hashes([p])[0]) * 4 * 16384 < files[p] << 32 for p in small)  # none ends a block
    assert laid(files, 16384).starts.tolist() == [0, 0, 16384, 5000, 65536, 81920, 75536]
    assert laid(files, 16384).length == 98304


def test_a_path_with_a_small_hash_ends_its_block() -> None:
    name = next(b"n%d" % i for i in range(10**6) if int(path_hashes([b"n%d" % i])[0]) < 1 << 16)
    layout = laid({name: 100, b"z": 100})
    assert layout.starts.tolist() == [0, 1024]


def test_path_hashes_are_those_of_the_protocol() -> None:
    assert [hex(int(h)) for h in path_hashes([b"", b"a", b"lib/x.py"])] == ["0x0", "0xfa5d3753", "0x5cc9f358"]


def test_root_binds_both() -> None:
    assert pack_root(bytes(32), b"\1" * 32) == blake2s(bytes(32) + b"\1" * 32, person=b"lcs-pack").digest()


def blocks_of(files: dict[bytes, tuple[int, int]]) -> set[tuple[object, ...]]:
    """The blocks of a pack of files, each a size and a version, as what is in them."""
    paths = sorted(files)
    layout = lay_out(paths, np.array([files[p][0] for p in paths], np.int64), 16384)
    blocks: dict[int, tuple[object, ...]] = {}
    for piece in layout.pieces(0, layout.length):
        path = paths[piece.entry]
        for at in range(piece.at, piece.at + piece.size, 16384):
            held = (path, files[path][1], at - piece.at, min(16384, piece.at + piece.size - at))
            blocks[at // 16384] = (*blocks.get(at // 16384, ()), held)
    return set(blocks.values())


@pytest.mark.parametrize("mean_bytes", [100, 3000, 10_000, 30_000])
def test_a_file_that_comes_goes_or_grows_changes_few_blocks(mean_bytes: int) -> None:
    chance = random.Random(mean_bytes)

    def size() -> int:
        return min(int(chance.expovariate(1 / mean_bytes)), 1 << 19)

    files = {b"d%02d/f%05d" % (i % 50, i): (size(), 0) for i in range(10_000)}
    before = blocks_of(files)
    for number in range(12):
        changed = dict(files)
        victim = chance.choice(list(files))
        if number % 3 == 0:
            changed[victim + b"-new"] = size(), 1
        elif number % 3 == 1:
            del changed[victim]
        else:
            changed[victim] = size(), 1
        news = blocks_of(changed) - before
        own = 16384 + sum(size for size, version in changed.values() if version)
        assert len(news) * 16384 < own + 24 * 16384


def test_padding_stays_small_whatever_the_sizes() -> None:
    for size in (10, 100, 1000, 3000, 5000):
        layout = laid({b"f%06d" % i: size for i in range(50_000)}, 16384)
        symbols = sum(int((~layout.padding(s, 1376)).sum()) for s in range(layout.segments))
        assert symbols * 1376 < 1.25 * 50_000 * size
        assert layout.length < 1.6 * 50_000 * size


@pytest.mark.parametrize("sizes", [[OBJECT_BYTES_MAX, 1], [OBJECT_BYTES_MAX] * 1000, [OBJECT_BYTES_MAX - 1, 2]])
def test_a_pack_that_is_too_large_is_refused(sizes: list[int]) -> None:
    with pytest.raises(PackError):
        lay_out([b"%d" % i for i in range(len(sizes))], np.array(sizes, np.int64), 1024)


def test_a_large_claim_costs_nothing() -> None:
    layout = lay_out([b"a", b"b"], np.array([OBJECT_BYTES_MAX // 2, 5], np.int64), 1024)
    assert layout.pieces(OBJECT_BYTES_MAX // 2, 1024) == [(1, 0, 0, 5)]
    assert layout.filled(layout.blocks - 1, layout.blocks).tolist() == [5]
