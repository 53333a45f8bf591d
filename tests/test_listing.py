# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A folder's list: what goes in comes out, and no path leads out of the folder."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync.const import INLINE_BYTES_MAX, OBJECT_BYTES_MAX
from lcsync.errors import UnsafeName
from lcsync.listing import Entry, ListingError, decode, encode

TOP = bytes(range(32))
COMPONENTS = st.binary(min_size=1, max_size=20).filter(lambda c: c not in (b".", b"..") and not {0, 47} & set(c))
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map(b"/".join)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path, mode, mtime_ns = draw(PATHS), draw(st.integers(0, 0o7777)), draw(st.integers(0, 2**63 - 1))
    if draw(st.booleans()):
        data = draw(st.binary(max_size=INLINE_BYTES_MAX))
        return Entry(path, len(data), mode, mtime_ns, b"", data)
    top = draw(st.binary(min_size=32, max_size=32))
    return Entry(path, draw(st.integers(INLINE_BYTES_MAX + 1, OBJECT_BYTES_MAX)), mode, mtime_ns, top)


@given(st.lists(entries(), max_size=20, unique_by=lambda e: e.path), st.randoms())
def test_round_trip(files: list[Entry], chance: Any) -> None:
    data = encode(files)
    back = decode(data)
    assert back == sorted(files, key=lambda e: e.path)
    chance.shuffle(files)
    assert encode(files) == data == encode(back)


def row(path: Any = b"a/b", length: Any = 5000, mode: Any = 0o644, mtime_ns: Any = 1, content: Any = TOP) -> bytes:
    return cbor2.dumps([[path, length, mode, mtime_ns, content]], canonical=True)


def test_a_good_row() -> None:
    assert decode(row()) == [Entry(b"a/b", 5000, 0o644, 1, TOP)]
    assert decode(row(length=3, content=b"abc")) == [Entry(b"a/b", 3, 0o644, 1, b"", b"abc")]
    assert decode(b"\x80") == []


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"/etc/passwd", b"..", b"a/../b", b"a/..", b"./a", b"a//b", b"a/", b"a\0b", b"x" * 256, b"x/" * 3000],
)
def test_no_path_leads_out(path: bytes) -> None:
    with pytest.raises(UnsafeName):
        decode(row(path=path))


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("path", [b"x" * 255, b"\xff\xfe"], ["text", 5, [b"a"]]),
        ("length", [901, OBJECT_BYTES_MAX], [OBJECT_BYTES_MAX + 1, 900, 0, b"", 5000.0, True]),
        ("mode", [0, 0o7777], [0o10000, b"", False, 1.0]),
        ("mtime_ns", [0, 2**63 - 1], [2**63, b"", False, -1]),
        ("content", [bytes(32)], [bytes(31), bytes(33), b"", 5, [TOP]]),
    ],
)
def test_bounds_of_each_field(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        (entry,) = decode(row(**{field: value}))
        assert value in vars(entry).values()
    for value in bad:
        with pytest.raises(ListingError):
            decode(row(**{field: value}))


@pytest.mark.parametrize("length", [0, 1, INLINE_BYTES_MAX])
def test_short_contents_have_their_length(length: int) -> None:
    assert decode(row(length=length, content=bytes(length)))[0].inline == bytes(length)
    with pytest.raises(ListingError):
        decode(row(length=length, content=bytes(length + 1)))


def test_paths_are_in_order_and_once() -> None:
    rows = [[path, 1, 0, 0, b"x"] for path in (b"a", b"b")]
    assert len(decode(cbor2.dumps(rows))) == 2
    for wrong in (rows[::-1], rows[:1] * 2):
        with pytest.raises(ListingError, match="order"):
            decode(cbor2.dumps(wrong))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xa0",
        b"\x41a",
        row()[:-1],
        row() + b"\x00",
        cbor2.dumps({(b"a/b", 5000, 0o644, 1, TOP): 1}),
        cbor2.dumps([b"12345"]),
        cbor2.dumps([[b"a", 1, 1, 1]]),
        cbor2.dumps([[b"a", 1, 1, 1, b"x", 1]]),
        b"\x81" * 1_000_000 + b"\x00",
        b"\xc2" * 1_000_000 + b"\x00",
        b"\x9f" * 1_000_000,
        b"\x9b" + b"\x0f" * 8,
        b"\x81\x5b" + b"\x0f" * 8,
        b"\x9a\x7f\xff\xff\xff",
        b"\x81\x85\x41a\x01\x01\x01\xd8\x23\x64[[a]",  # a regular expression
        b"\xc4\x82\x00\xc2\x5a\x00\x40\x00\x00" + b"\xff" * (4 << 20),  # a fraction of 10 million digits
    ],
    ids=lambda data: f"{data[:8].hex()}-{len(data)}",
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(ListingError):
        decode(data)


ATOMS = st.integers(-(2**64), 2**64) | st.binary(max_size=40) | st.sampled_from([True, False, None, 0.0, 2.0, "é"])
TREES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=12,
)


def accepted_or_refused(data: bytes) -> None:
    try:
        files = decode(data)
    except (ListingError, UnsafeName):
        return
    for entry in files:
        assert not {b"", b".", b".."} & set(entry.path.split(b"/"))
        assert entry.length <= OBJECT_BYTES_MAX
        assert (entry.inline is None) == (len(entry.top) == 32)


@given(TREES)
def test_any_cbor(tree: Any) -> None:
    accepted_or_refused(cbor2.dumps(tree))


@given(
    st.lists(entries(), max_size=4, unique_by=lambda e: e.path),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=5),
)
def test_mutations_of_good_ones(files: list[Entry], changes: list[tuple[int, int]]) -> None:
    raw = bytearray(encode(files))
    for at, byte in changes:
        raw[at % len(raw)] = byte
    accepted_or_refused(bytes(raw))
