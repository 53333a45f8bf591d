# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Entry lists: what goes in comes out, no path leads out of the folder, and hostile bytes are refused within bounds."""

from __future__ import annotations

import random
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync import columns, entries
from lcsync.columns import ColumnError, pack_numbers, pack_sections, unpack_numbers, unpack_sections
from lcsync.const import CHUNK_ENTRIES_MAX, ENTRIES_MAX, LIST_BLOCK_BYTES, OBJECT_BYTES_MAX
from lcsync.entries import Entries, EntriesError, Kind, decode, encode
from lcsync.errors import UnsafeName
from lcsync.paths import safe_relative

COMPONENTS = st.binary(min_size=1, max_size=12).filter(lambda c: c not in (b".", b"..") and not {0, 47} & set(c))
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map(b"/".join)
TARGETS = st.binary(min_size=1, max_size=30).filter(lambda t: 0 not in t)


def column(draw: st.DrawFn, count: int, numbers: st.SearchStrategy[int], dtype: Any) -> Any:
    if draw(st.booleans()):
        return np.full(count, draw(numbers), dtype)
    return np.array(draw(st.lists(numbers, min_size=count, max_size=count)), dtype)


@st.composite
def folders(draw: st.DrawFn, most: int = 25) -> Entries:
    leaves = draw(st.sets(PATHS, max_size=most))
    above = {b""} | {path[:i] for path in leaves for i, c in enumerate(path) if c == 47}
    paths = sorted(leaves | above)
    kinds = [Kind.FOLDER if p in above else draw(st.integers(0, Kind.BLOCK)) for p in paths]
    files: list[bytes] = []
    links = {}
    for i, path in enumerate(paths):
        if kinds[i] == Kind.HARDLINK and not files:
            kinds[i] = Kind.FILE
        if kinds[i] == Kind.FILE:
            files.append(path)
        elif kinds[i] == Kind.HARDLINK:
            links[i] = draw(st.sampled_from(files))
        elif kinds[i] == Kind.SYMLINK:
            links[i] = draw(TARGETS)
    n = len(paths)
    sizes = [draw(st.integers(0, 1 << 34)) if k == Kind.FILE else 0 for k in kinds]
    out = Entries(paths, np.array(kinds, np.uint8), np.array(sizes, np.int64), links)
    word = st.integers(0, (1 << 32) - 1)
    out.devices = {i: draw(st.tuples(word, word)) for i in range(n) if kinds[i] in entries.DEVICES}
    if draw(st.booleans()):
        out.modes = column(draw, n, st.integers(0, 0o7777), np.uint16)
    if draw(st.booleans()):
        out.mtimes_ns = column(draw, n, st.integers(-(1 << 63), (1 << 63) - 1), np.int64)
    if draw(st.booleans()):
        out.uids, out.gids = column(draw, n, word, np.uint32), column(draw, n, word, np.uint32)
        out.users = {i: draw(TARGETS) for i in np.unique(out.uids).tolist() if draw(st.booleans())}
        out.groups = {i: draw(TARGETS) for i in np.unique(out.gids).tolist() if draw(st.booleans())}
    if draw(st.booleans()):
        some = st.dictionaries(TARGETS, st.binary(max_size=50), min_size=1, max_size=3)
        out.xattrs = draw(st.dictionaries(st.integers(0, n - 1), some, max_size=4))
    return out


def as_dict(e: Entries) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(e).items()}


@settings(deadline=None)
@given(folders())
def test_round_trip(folder: Entries) -> None:
    data = encode(folder)
    back = decode(data)
    assert as_dict(back) == as_dict(folder)
    assert encode(back) == data
    assert back.kinds.dtype == np.uint8 and back.sizes.dtype == np.int64


def many(count: int, step: int = 1) -> Entries:
    files = [b"dir%03d/sub%d/file%07d.txt" % (i % 97, i % 7, i) for i in range(0, count * step, step)]
    above = {b""} | {p[:6] for p in files} | {p[:11] for p in files}
    paths = sorted([*files, *above])
    kinds = np.array([Kind.FOLDER if p in above else Kind.FILE for p in paths], np.uint8)
    chance = random.Random(1)
    sizes = np.array([0 if k else chance.randrange(30_000) for k in kinds.tolist()], np.int64)
    times = np.array([1_700_000_000_000_000_000 + chance.randrange(10**17) for _ in paths], np.int64)
    return Entries(paths, kinds, sizes, modes=np.full(len(paths), 0o644, np.uint16), mtimes_ns=times)


def test_many_entries_are_chunks_of_their_own() -> None:
    folder = many(20_000)
    data = encode(folder)
    assert as_dict(decode(data)) == as_dict(folder)
    assert len(data) < 35 * len(folder)


def without(e: Entries, victim: int) -> Entries:
    keep = np.arange(len(e)) != victim
    assert e.modes is not None and e.mtimes_ns is not None
    return replace(
        e,
        paths=e.paths[:victim] + e.paths[victim + 1 :],
        kinds=e.kinds[keep],
        sizes=e.sizes[keep],
        modes=e.modes[keep],
        mtimes_ns=e.mtimes_ns[keep],
    )


def list_blocks(e: Entries) -> set[bytes]:
    data = encode(e)
    return {data[i : i + LIST_BLOCK_BYTES] for i in range(0, len(data), LIST_BLOCK_BYTES)}


def test_an_entry_that_comes_or_goes_changes_few_blocks_of_the_list() -> None:
    folder = many(10_000)
    whole = list_blocks(folder)
    news = []
    for victim in range(500, len(folder), 997):
        if folder.kinds[victim] == Kind.FILE:
            less = list_blocks(without(folder, victim))
            news += [len(whole - less), len(less - whole)]
    assert max(news) * LIST_BLOCK_BYTES < 128 << 10
    assert sum(news) / len(news) * LIST_BLOCK_BYTES < 48 << 10


def test_equal_attributes_cost_next_to_nothing() -> None:
    folder = many(10_000)
    less = replace(folder, modes=None)
    assert len(encode(folder)) - len(encode(less)) <= 1000


# --- hostile lists ---


def single(path: bytes = b"a", kind: int = Kind.FILE, size: int = 5, **more: Any) -> Entries:
    return Entries([b"", path], np.array([Kind.FOLDER, kind], np.uint8), np.array([0, size], np.int64), **more)


def test_a_good_one() -> None:
    assert decode(encode(single())).paths == [b"", b"a"]
    assert decode(encode(single(size=OBJECT_BYTES_MAX))).sizes.tolist() == [0, OBJECT_BYTES_MAX]


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/etc/passwd",
        b"..",
        b"a/../b",
        b"a/..",
        b"./a",
        b"a//b",
        b"a/",
        b"a\0b",
        b"x" * 256,
        b"../x",
        b".",
        b"a/.",
    ],
)
def test_no_path_leads_out(path: bytes) -> None:
    with pytest.raises(UnsafeName):
        decode(encode(single(path)))


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b"a/..", b"x" * 255, b"x" * 256, b"/a", b"a/b"]), min_size=1))
def test_the_fast_check_is_safe_relative(paths: list[bytes]) -> None:
    def safe(path: bytes) -> bool:
        try:
            return bool(safe_relative(path))
        except UnsafeName:
            return False

    assert entries._all_safe(paths) == all(map(safe, paths))


def folder_of(*rows: tuple[bytes, int], links: dict[int, bytes] | None = None) -> Entries:
    rows = ((b"", Kind.FOLDER), *rows)
    kinds = np.array([kind for _, kind in rows], np.uint8)
    return Entries([path for path, _ in rows], kinds, np.zeros(len(rows), np.int64), links or {})


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        (folder_of((b"b", Kind.FILE), (b"a", Kind.FILE)), "order"),
        (folder_of((b"a", Kind.FILE), (b"a", Kind.FILE)), "order"),
        (folder_of((b"a", Kind.FILE), (b"a/b", Kind.FILE)), "below"),
        (folder_of((b"a", Kind.SYMLINK), (b"a/b", Kind.FILE), links={1: b"/etc"}), "below"),
        (folder_of((b"a/b", Kind.FILE)), "below"),
        (folder_of((b"a", Kind.SYMLINK)), "nowhere"),
        (folder_of((b"a", Kind.SYMLINK), links={1: b"a\0b"}), "nowhere"),
        (folder_of((b"a", Kind.SYMLINK), links={1: b"x" * 4097}), "too long"),
        (folder_of((b"a", Kind.HARDLINK), links={1: b"/etc/passwd"}), "hard link"),
        (folder_of((b"a", Kind.HARDLINK), (b"b", Kind.FILE), links={1: b"b"}), "hard link"),
        (folder_of((b"a", Kind.FOLDER), (b"b", Kind.HARDLINK), links={2: b"a"}), "hard link"),
        (folder_of((b"a", Kind.CHARACTER)), "device"),
        (single(kind=8), "impossible"),
        (single(kind=Kind.FIFO), "size of what"),
        (single(size=OBJECT_BYTES_MAX + 1), "impossible"),
        (single(modes=np.array([0, 0o10000], np.uint16)), "impossible"),
        (single(uids=np.array([0, 1], np.uint32)), "users without"),
        (single(uids=np.zeros(2, np.uint32), gids=np.zeros(2, np.uint32), users={0: b"a\0"}), "owner"),
        (single(xattrs={1: {b"": b"x"}}), "attribute"),
        (single(xattrs={1: {b"n" * 256: b"x"}}), "too long"),
        (single(xattrs={1: {b"n": bytes(65537)}}), "too long"),
        (Entries([b"a"], np.zeros(1, np.uint8), np.zeros(1, np.int64)), "folder itself"),
        (Entries([b""], np.zeros(1, np.uint8), np.zeros(1, np.int64)), "folder itself"),
    ],
)
def test_what_is_no_folder_is_refused(folder: Entries, reason: str) -> None:
    with pytest.raises(EntriesError, match=reason):
        decode(encode(folder))


def test_sizes_that_add_up_to_too_much() -> None:
    paths = [b"", *(b"%05d" % i for i in range(2000))]
    sizes = np.full(2001, OBJECT_BYTES_MAX, np.int64)
    sizes[0] = 0
    with pytest.raises(EntriesError, match="more bytes"):
        decode(encode(Entries(paths, np.array([1, *[0] * 2000], np.uint8), sizes)))


def chunk(count: int, sections: dict[int, bytes], version: int = 1) -> bytes:
    data = pack_sections(sections)
    return struct.pack(">HHI", version, count, len(data)) + data


def one(value: int) -> bytes:
    return pack_numbers(np.array([value, value]))


GOOD = {
    entries.PREFIXES: one(0),
    entries.SUFFIXES: pack_numbers(np.array([0, 1])),
    entries.SUFFIX_BYTES: b"a",
    entries.KINDS: pack_numbers(np.array([1, 0])),
    entries.SIZES: one(0),
}


def test_the_encoding_is_the_one_of_the_protocol() -> None:
    assert chunk(2, GOOD) == encode(single(size=0))
    assert chunk(2, GOOD).hex() == (
        "0001000200000024" "01000000021100" "0200000003010001" "030000000161" "0400000003010100" "05000000021100"
    )  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(8),
        bytes(4096),
        chunk(2, GOOD, version=2),
        chunk(0, GOOD),
        chunk(3, GOOD),
        chunk(CHUNK_ENTRIES_MAX + 1, GOOD),
        chunk(2, GOOD)[:-1],
        chunk(2, GOOD) + b"\0",
        chunk(2, GOOD) * 2,
        chunk(2, {**GOOD, 24: b""}),
        chunk(2, {**GOOD, 0: b""}),
        chunk(2, {k: v for k, v in GOOD.items() if k != entries.KINDS}),
        chunk(2, {k: v for k, v in GOOD.items() if k != entries.SIZES}),
        chunk(2, {**GOOD, entries.SIZES: b""}),
        chunk(2, {**GOOD, entries.SIZES: b"\x13\0"}),
        chunk(2, {**GOOD, entries.SIZES: b"\x01\0\0"}),  # not the shortest form
        chunk(2, {**GOOD, entries.SUFFIX_BYTES: b"ab"}),
        chunk(2, {**GOOD, entries.PREFIXES: pack_numbers(np.array([0, 5]))}),
        chunk(2, {**GOOD, entries.LINK_BYTES: b"x"}),
        chunk(2, {**GOOD, entries.NUMBERS: bytes(8)}),
        chunk(2, {**GOOD, entries.XATTR_OWNERS: b"\0\5", entries.XATTR_LENGTHS: b"\0\1", entries.XATTR_NAMES: b"n",
                  entries.XATTR_SIZES: bytes(4), entries.XATTR_VALUES: b""}),
    ],
)  # fmt: skip
def test_broken_lists_are_refused(data: bytes) -> None:
    with pytest.raises(EntriesError):
        decode(data)


def test_claims_cost_no_memory() -> None:
    """A list of the largest size that unfolds to as much as it can: refused before that is allocated."""
    tail = b"".join(b"%04x" % i for i in range(4000))
    long = [b"x" * 255 + b"/"] * 15
    bomb = chunk(
        4001,
        {
            entries.PREFIXES: pack_numbers(np.array([0, 0, *[3840] * 3999])),
            entries.SUFFIXES: pack_numbers(np.array([0, 3844, *[4] * 3999])),
            entries.SUFFIX_BYTES: b"".join(long) + tail,
            entries.KINDS: pack_numbers(np.array([1, *[0] * 4000])),
            entries.SIZES: pack_numbers(np.zeros(4001)),
        },
    )
    bomb += bytes(-len(bomb) % LIST_BLOCK_BYTES)
    tracemalloc.start()
    try:
        for data in (bomb * 100, chunk(4096, {**GOOD, entries.SUFFIXES: one((1 << 64) - 1)}) * 1000):
            with pytest.raises(EntriesError):
                decode(data)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lengths", [entries.LINK_LENGTHS, entries.USER_LENGTHS, entries.XATTR_LENGTHS])
def test_tables_of_nothing_cost_no_memory(lengths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of empty byte strings: there are no more than rows, and of attributes no more than the bound."""
    monkeypatch.setattr(entries, "XATTRS_MAX", 1000)
    owners = {entries.USER_LENGTHS: entries.USER_IDS, entries.XATTR_LENGTHS: entries.XATTR_OWNERS}
    width = {entries.USER_LENGTHS: 4, entries.XATTR_LENGTHS: 2}
    sections = {**GOOD, lengths: bytes(2 << 20)}
    if lengths in owners:
        sections[owners[lengths]] = bytes(width[lengths] << 20)
    data = chunk(2, sections)
    tracemalloc.start()
    try:
        with pytest.raises(EntriesError, match="another length"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


def test_more_entries_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(many(3000))
    monkeypatch.setattr(entries, "ENTRIES_MAX", 1000)
    with pytest.raises(EntriesError, match="too many"):
        decode(data)
    assert ENTRIES_MAX > 1_000_000


def accepted_or_refused(data: bytes) -> None:
    try:
        folder = decode(data)
    except (EntriesError, UnsafeName):
        return
    assert encode(folder) == data
    assert all(safe_relative(path) for path in folder.paths[1:])


@settings(deadline=None)
@given(folders(6), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=5))
def test_mutations_of_good_ones(folder: Entries, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(encode(folder))
    for at, byte in changes:
        raw[at % len(raw)] = byte
    accepted_or_refused(bytes(raw))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    accepted_or_refused(data)
    accepted_or_refused(struct.pack(">HHI", 1, 2, len(data)) + data)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=20))
def test_columns_of_numbers(values: list[int]) -> None:
    data = pack_numbers(np.array(values, np.uint64))
    assert unpack_numbers(data, len(values)).tolist() == values
    with pytest.raises(ColumnError):
        unpack_numbers(data + b"\0", len(values))
    if len(set(values)) > 1:
        with pytest.raises(ColumnError):
            unpack_numbers(data, len(values) + 1)


@given(st.dictionaries(st.integers(1, 9), st.binary(max_size=9)))
def test_sections(sections: dict[int, bytes]) -> None:
    data = pack_sections(sections)
    assert unpack_sections(data, 9) == sections
    for wrong in (data + b"\1", data + data if data else b"\1"):
        with pytest.raises(ColumnError):
            unpack_sections(wrong, 9)


def test_tables_have_whole_numbers() -> None:
    assert columns.unpack_plain(columns.pack_plain([1, 2], 4), 4, 2) == [1, 2]
    for data in (b"123", b"123456"):
        with pytest.raises(ColumnError):
            columns.unpack_plain(data, 2, 2)
    with pytest.raises(ColumnError):
        columns.cut(b"123", [1, 1])
