# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The manifest: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync import manifest, merkle
from lcsync.const import LIST_BLOCK_BYTES, LIST_BYTES_MAX, OBJECT_BYTES_MAX
from lcsync.manifest import (
    INLINE,
    LEAVES,
    OUTLINE,
    Content,
    ListPart,
    Manifest,
    ManifestError,
    decode,
    describe,
    describe_pack,
)
from lcsync.merkle import Tree, hash_leaves
from lcsync.wire import symbol_bytes

BLOCK = 16384


def described(size: int, symbol: int = 1376, block: int = BLOCK, with_data: bool = True) -> Manifest:
    data = random.Random(size).randbytes(size)
    tree = Tree(size, block, hash_leaves(data, block))
    return describe(tree, Content.FILE, symbol, 0o640, 1_700_000_000_000_000_000, 7, data if with_data else None)


GOOD = described(100_000)
BARE = replace(GOOD, leaves=None)


def inside(m: Manifest) -> str:
    """Which of the three is there."""
    found = [name for name in ("inline", "leaves", "outline") if getattr(m, name) is not None]
    assert len(found) <= 1
    return found[0] if found else "nothing"


@pytest.mark.parametrize("symbol", [symbol_bytes(mtu) for mtu in (1280, 1500, 9000)])
@pytest.mark.parametrize("size", [0, 1, 899, 900, 901, 16384, 300_000, 650_000, 4 << 20, 50 << 20])
def test_round_trip_and_size(size: int, symbol: int) -> None:
    m = described(size, symbol)
    packet = m.encode()
    assert decode(packet) == m
    assert len(packet) <= symbol
    assert decode(packet).encode() == packet


@pytest.mark.parametrize(
    ("size", "with_data", "expected"),
    [
        (0, True, "inline"),
        (900, True, "inline"),
        (900, False, "leaves"),
        (901, True, "leaves"),
        (39 * BLOCK, True, "leaves"),  # 39 * 32 = 1248 bytes
        (42 * BLOCK, True, "outline"),
        (39 << 20, True, "outline"),
        (42 << 20, True, "nothing"),
    ],
)
def test_as_much_as_fits_is_inside(size: int, with_data: bool, expected: str) -> None:
    assert inside(described(size, with_data=with_data)) == expected


def test_the_largest_list_that_fits_is_inside() -> None:
    """Just as many hashes as the packet has room for, whatever the other fields cost."""
    for symbol in (1152, 1376, 8896):
        full = [blocks for blocks in range(1, 300) if inside(described(blocks * 1024, symbol, 1024)) == "leaves"]
        largest = described(full[-1] * 1024, symbol, 1024)
        assert full == list(range(1, len(full) + 1))
        assert symbol - 32 - 2 < len(largest.encode()) <= symbol


def test_the_encoding_is_deterministic_cbor_with_the_version_first() -> None:
    packet = GOOD.encode()
    fields = cbor2.loads(packet)
    assert list(fields) == sorted(fields)
    assert next(iter(fields.items())) == (0, 1)
    assert packet[1:3] == b"\x00\x01"


def altered(key: int, value: Any, base: Manifest = BARE) -> bytes:
    fields = cbor2.loads(base.encode())
    fields[key] = value
    return cbor2.dumps(fields, canonical=True)


@pytest.mark.parametrize(
    ("key", "good", "bad", "word"),
    [
        (0, [1], [0, 2, b"", -1], "version"),
        (1, [0], [2, 3, b"", -1], "kind"),
        (2, [bytes(32)], [bytes(31), bytes(33), b"", 5], "root"),
        (3, [0, OBJECT_BYTES_MAX], [OBJECT_BYTES_MAX + 1, 2**64 - 1, b""], "length"),
        (4, [1 << 10, 1 << 20], [0, 1 << 9, 1 << 21, 16385, b""], "block"),
        (5, [1152, 9088], [0, 32, 1120, 1375, 9120, 2**60, b""], "symbol"),
        (6, [0, 0o7777], [0o10000, b""], "metadata"),
        (7, [0, 2**63 - 1], [2**63, b""], "metadata"),
        (8, [0, 2**64 - 1], [b""], "metadata"),
        (9, [], [5, b"wrong length"], "inside"),
        (10, [], [5, b"", bytes(33)], "inside"),
        (11, [], [5, b"", bytes(33)], "inside"),
    ],
)
def test_bounds_of_each_field(key: int, good: list[Any], bad: list[Any], word: str) -> None:
    for value in good:
        assert cbor2.loads(decode(altered(key, value)).encode())[key] == value
    for value in bad:
        with pytest.raises(ManifestError, match="cbor" if value == -1 else word):
            decode(altered(key, value))
    fields = cbor2.loads(BARE.encode())
    if key in fields:
        del fields[key]
        with pytest.raises(ManifestError, match=word):
            decode(cbor2.dumps(fields, canonical=True))


@pytest.mark.parametrize("value", [True, False, None, 1.0, 2.5, "text", -1, 2**64, b"x" * 5000])
@pytest.mark.parametrize("key", range(9))
def test_values_that_only_look_equal_are_refused(key: int, value: Any) -> None:
    with pytest.raises(ManifestError):
        decode(altered(key, value))


@pytest.mark.parametrize("key", [False, 0.0])
def test_keys_that_only_look_equal_are_refused(key: Any) -> None:
    fields = {k or key: v for k, v in cbor2.loads(BARE.encode()).items()}
    with pytest.raises(ManifestError, match="cbor"):
        decode(cbor2.dumps(fields, canonical=True))


def test_what_is_inside_must_be_what_the_root_says() -> None:
    for m in (described(900), described(901), described(2 << 20)):
        name = inside(m)
        right = getattr(m, name)
        wrong = bytes((right[0] ^ 1,)) + right[1:]
        assert decode(m.encode()) == m
        for forged in (replace(m, **{name: wrong}), replace(m, root=bytes(32))):
            with pytest.raises(ManifestError, match="root"):
                decode(forged.encode())
        for size in (right[:-32], right + bytes(32)):
            with pytest.raises(ManifestError, match="inside"):
                decode(replace(m, **{name: size}).encode())


def test_two_insides_are_refused() -> None:
    small = described(900)
    leaves = merkle.hash_leaves(small.inline or b"", BLOCK).tobytes()
    for more in ({"leaves": leaves}, {"outline": leaves}, {"leaves": bytes(7)}):
        with pytest.raises(ManifestError, match="inside"):
            decode(replace(small, **more).encode())
    assert {INLINE, LEAVES, OUTLINE} == {9, 10, 11}


def test_unknown_keys_are_passed_over() -> None:
    assert decode(altered(99, b"a key of the future")) == BARE


def test_only_the_deterministic_encoding_is_read() -> None:
    fields = cbor2.loads(BARE.encode())
    others = [
        cbor2.dumps(dict(reversed(fields.items()))),  # order
        bytes((0xB8, len(fields))) + BARE.encode()[1:],  # a longer head than needed
        b"\xbf" + BARE.encode()[1:] + b"\xff",  # indefinite length
        BARE.encode()[:1] + b"\x00\x18\x01" + BARE.encode()[3:],
        bytes((BARE.encode()[0] + 1,)) + b"\x00\x01" + BARE.encode()[1:],  # a key twice
        BARE.encode() + b"\0",
        b"\xd9\xd9\xf7" + BARE.encode(),  # self-described CBOR
    ]
    for packet in others:
        with pytest.raises(ManifestError, match="cbor"):
            decode(packet)


def bomb(levels: int) -> bytes:
    """Shared references: each level holds the one below twice."""
    out = b"\xd8\x1c\x81\x00"
    for level in range(levels):
        reference = b"\xd8\x1d\x18" + bytes((level,))
        out += b"\xd8\x1c\x82" + reference * 2
    return b"\xa1\x14\x98" + bytes((levels + 1,)) + out


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x80",
        b"\x00",
        b"\x81" * 1300 + b"\x00",
        b"\xa1\x00" * 650 + b"\x00",
        b"\xd8\x1c" * 600 + b"\x00",
        b"\xa1\x00\x5b" + b"\x0f" * 8,
        b"\xa1\x00\x9b" + b"\x0f" * 8,
        b"\xbb" + b"\xff" * 8,
        b"\xa1\x00\xd8\x23\x64[[a]",  # a regular expression
        b"\xa1\x00\xc5\x82\x1b" + b"\x7f" * 8 + b"\x01",  # a big float
        b"\xa1\x00\xc1\xfb\x7f\xf0\0\0\0\0\0\0",  # infinity as a date
        bomb(60),
    ],
)
def test_traps_of_the_format(packet: bytes) -> None:
    with pytest.raises(ManifestError):
        decode(packet)


def accepted_or_refused(packet: bytes) -> None:
    try:
        m = decode(packet)
    except ManifestError as error:
        assert str(error) in {"cbor", "version", "kind", "root", "length", "block", "symbol", "metadata", "inside"}
        return
    assert cbor2.loads(packet).items() >= cbor2.loads(m.encode()).items()


@given(st.binary(max_size=200))
def test_noise(packet: bytes) -> None:
    accepted_or_refused(packet)


ATOMS = st.integers(-(2**64), 2**64) | st.binary(max_size=40) | st.sampled_from([True, False, None, 0.0, 2.0, "é"])
TREES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 20), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.integers(0, 16), TREES, max_size=14), st.booleans())
def test_any_cbor(fields: dict[int, Any], keep: bool) -> None:
    accepted_or_refused(cbor2.dumps({**(cbor2.loads(BARE.encode()) if keep else {}), **fields}, canonical=True))


@settings(max_examples=300)
@given(
    st.sampled_from([described(size).encode() for size in (0, 900, 901, 2 << 20, 50 << 20)]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255), st.sampled_from("xid")), min_size=1, max_size=4),
)
def test_mutations_of_good_ones(packet: bytes, changes: list[tuple[int, int, str]]) -> None:
    raw = bytearray(packet)
    for at, byte, how in changes:
        at %= len(raw) or 1
        if how == "x":
            raw[at : at + 1] = bytes((byte,))
        elif how == "i":
            raw.insert(at, byte)
        else:
            del raw[at : at + 1]
    root = cbor2.loads(packet)[2]
    try:
        m = manifest.decode(bytes(raw))
    except ManifestError:
        return
    if m.root == root and m.inline is not None:
        assert m.inline == decode(packet).inline


# --- packs ---

PACKS = (Content.PACK,)


def pack_of(list_bytes: int, size: int, symbol: int = 1376) -> Manifest:
    data = random.Random(list_bytes).randbytes(list_bytes)
    entries = Tree(list_bytes, LIST_BLOCK_BYTES, hash_leaves(data, LIST_BLOCK_BYTES))
    content = Tree(size, BLOCK, hash_leaves(random.Random(size).randbytes(size), BLOCK))
    return describe_pack(entries, content, symbol, 0o755, 1_700_000_000_000_000_000, 7, data)


@pytest.mark.parametrize("symbol", [symbol_bytes(mtu) for mtu in (1280, 1500, 9000)])
@pytest.mark.parametrize("list_bytes", [40, 900, 901, 100_000, 5 << 20])
@pytest.mark.parametrize("size", [0, 1, 300_000, 30 << 20])
def test_packs_come_through(list_bytes: int, size: int, symbol: int) -> None:
    m = pack_of(list_bytes, size, symbol)
    packet = m.encode()
    assert len(packet) <= symbol
    assert decode(packet, PACKS) == m
    assert m.entries is not None
    assert (m.entries.inline is not None) == (list_bytes <= 900)
    assert (m.entries.outline is not None) == (list_bytes > 900)
    if not size:
        assert inside(m) == "nothing"
    elif list_bytes == 40 and size < 1 << 20:
        assert inside(m) == "leaves"


def test_packs_are_taken_only_where_they_are_asked_for() -> None:
    with pytest.raises(ManifestError, match="kind"):
        decode(pack_of(100, 5).encode(), (Content.FILE,))
    with pytest.raises(ManifestError, match="kind"):
        decode(GOOD.encode(), PACKS)


def changed_list(m: Manifest, **fields: Any) -> Manifest:
    assert m.entries is not None
    return replace(m, entries=replace(m.entries, **fields))


PACK = pack_of(5000, 100_000)
SHORT = pack_of(100, 100_000)


@pytest.mark.parametrize(
    ("m", "reason"),
    [
        (replace(PACK, root=bytes(32)), "root"),
        (replace(PACK, data_root=bytes(32)), "root"),
        (replace(PACK, data_root=bytes(31)), "root"),
        (replace(PACK, leaves=None, inline=bytes(100_000)), "root"),
        (replace(PACK, leaves=bytes(7 * 32)), "root"),
        (replace(PACK, entries=None), "list"),
        (replace(PACK, entries=ListPart(0, bytes(32))), "list"),
        (replace(PACK, entries=ListPart(LIST_BYTES_MAX + 1, bytes(32))), "list"),
        (changed_list(PACK, root=bytes(32)), "list"),
        (changed_list(PACK, root=bytes(31)), "list"),
        (changed_list(PACK, outline=bytes(64)), "list"),
        (changed_list(PACK, outline=bytes(32)), "list"),
        (changed_list(SHORT, inline=bytes(100)), "list"),
        (changed_list(SHORT, inline=bytes(101)), "list"),
        (changed_list(SHORT, outline=bytes(32)), "list"),
    ],
)
def test_packs_that_are_none(m: Manifest, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        decode(m.encode(), PACKS)
