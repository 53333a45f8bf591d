# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What is fuzzed: functions that take any bytes, and fail only by an assertion or an exception that must not be.

`TARGETS` names them; fuzz.py feeds them by atheris, test_fuzz.py with their corpora.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcsync import _xor, claims, entries, merkle, mld, pack, paths, trackers
from lcsync import manifest as manifests
from lcsync._wire import (
    EVENT_SOLVE,
    HEADER_BYTES,
    REPAIR_SYMBOLS,
    SOURCE_SYMBOLS,
    Assembler,
    Geometry,
    parse,
)
from lcsync.cache import TreeCache
from lcsync.const import ACTIVE_GROUPS_MAX, HASH_BYTES, SEGMENT_BYTES
from lcsync.download import Download
from lcsync.errors import UnsafeName
from lcsync.files import Version
from lcsync.manifest import Content, Manifest, ManifestError
from lcsync.membership import Membership
from lcsync.mld import ALL_MLDV2_ROUTERS, MldError
from lcsync.querier import Advertiser, Querier

# --- packets ---

SHAPE = Geometry(150_000, 65_536, 4096, 1216)  # three segments of 64 symbols, the last one shorter
SLOTS, ROWS = 2, 40
TOIS = (b"source-symbols", b"repair-symbols", b"both, some of.")


def packet(data: bytes) -> None:
    """Packets: a byte of kind (0 to 2: with a header that fits this stream), the length, the rest."""
    with suppress(ValueError):
        assert len(parse(data)) == 5
    assembler = Assembler(SLOTS, SHAPE.segment_bytes, 64, ROWS, SHAPE.symbol_bytes)
    number = assembler.add_object(SHAPE)
    for toi, first, count, takes in ((TOIS[0], 0, 3, SOURCE_SYMBOLS), (TOIS[1], 0, 3, REPAIR_SYMBOLS),
                                     (TOIS[2], 1, 2, SOURCE_SYMBOLS | REPAIR_SYMBOLS)):  # fmt: skip
        assembler.add_stream(toi, number, first, count, takes)
    for segment in range(SHAPE.segments):
        here = bytes(segment == esi % 3 for esi in range(SHAPE.symbols(segment)))
        assembler.want(number, segment, here if segment else None)
    fed = at = 0
    while at + 3 <= len(data):
        kind, size = struct.unpack_from(">BH", data, at)
        body = data[at + 3 : at + 3 + size]
        at += 3 + size
        if kind < len(TOIS):  # what follows the kind: run, SBN, ESI, a byte that the payload is made of
            run, sbn, esi, fill = struct.unpack(">BBHB", body[:5].ljust(5, b"\0"))
            length = size - 5 if size > 5 else SHAPE.place(0, esi % 64)[1]
            head = struct.pack(">IIHI", 0x10F00780, fed, 0, run) + TOIS[kind] + struct.pack(">II", sbn, esi)
            body = head + bytes([fill]) * max(0, length)
        assembler.feed([body], bytes([kind]) * 16 if kind & 1 else b"")
        fed += 1
        _empty(assembler, number)
    counters = assembler.counters()
    assert sum(counters.values()) - counters["bytes"] == fed
    assembler.remove_object(number)
    assert assembler.event() is None


def _empty(assembler: Assembler, number: int) -> None:
    while (event := assembler.event()) is not None:
        kind, index, segment, slot = event
        assert index == number and segment < SHAPE.segments
        if kind == EVENT_SOLVE:
            if not _xor.ready(assembler, number, segment, b"seed" * 8):
                continue
            slot = _xor.begin(assembler, number, segment)
            if slot < 0:
                assembler.want(number, segment)
                continue
            _xor.restore(assembler, slot, b"seed" * 8)
        view = assembler.data(slot)
        assert len(view) == SHAPE.segment_size(segment)
        end = 0
        for offset, length in assembler.runs(slot):
            assert end <= offset and length > 0
            end = offset + length
        assert end <= len(view)
        assembler.release(slot)
        if sum(view[:64]) & 1:  # as if it were wrong
            assembler.blame(number, segment)
            assembler.want(number, segment)


# --- manifests and hashes ---

ANY_KIND = tuple(Content)


def manifest(data: bytes) -> None:
    for kinds in (ANY_KIND, (Content.FILE,)):
        try:
            found = manifests.decode(data, kinds)
        except ManifestError as error:
            assert str(error).isascii() and len(str(error)) < 20
            continue
        assert found.kind in kinds
        assert manifests.decode(found.encode(), kinds) == found
        claims.refusal(found.length, 1 << 20, 1 << 20)
        if found.kind is not Content.PACK:
            _start(found)


def _start(m: Manifest) -> None:
    download = Download(b"name", m.root, m.length, m.block_bytes, m.symbol_bytes)
    if m.leaves is not None:
        assert download.set_all_leaves(m.leaves)
    elif m.outline is not None:
        assert download.set_outline(m.outline)


class Store:
    def __init__(self, length: int) -> None:
        self.data = bytearray(length)

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        assert offset >= 0 and offset + len(data) <= len(self.data)
        self.data[offset : offset + len(data)] = data

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def read_into(self, view: memoryview, offset: int) -> None:
        view[:] = self.data[offset : offset + len(view)]

    def settle(self, offset: int, length: int) -> None:
        assert length > 0 and offset + length <= len(self.data)


LENGTH, BLOCK = 2 * SEGMENT_BYTES + 300_000, 1 << 18
ZEROS = merkle.Tree(LENGTH, BLOCK, merkle.hash_leaves(bytes(LENGTH), BLOCK))


def hashes(data: bytes) -> None:
    """An outline of three segments, then block hashes of one: they are what was promised, or nothing is believed."""
    given = data[1 : 1 + 3 * HASH_BYTES].ljust(3 * HASH_BYTES, b"\1")
    right = bool(data[:1]) and bool(data[0] & 1)
    top = merkle.top(merkle.as_hashes(given))
    root = merkle.content_root(LENGTH, BLOCK, top) if right else ZEROS.root
    download = Download(b"name", root, LENGTH, BLOCK, 1376)
    assert download.set_outline(given) == (right or given == ZEROS.outline.tobytes())
    if download.nodes is None:
        return
    store = Store(LENGTH)
    download.compare(ZEROS, store, Store(LENGTH))
    for segment in np.flatnonzero(download.lack).tolist():
        size = 4 * HASH_BYTES if segment < 2 else 2 * HASH_BYTES
        leaves = data[97 : 97 + size].ljust(size, b"\2")
        believed = download.set_leaves(segment, leaves)
        assert believed == (merkle.top(merkle.as_hashes(leaves)) == download.segment_hash(segment))
        block = memoryview(bytearray(download.geometry.segment_size(segment)))
        assert not download.take(segment, block, [(0, len(block))])
    assert not any(store.data)


# --- lists of folders, and packs ---


def entry_list(data: bytes) -> None:
    try:
        found = entries.decode(data)
    except (entries.EntriesError, UnsafeName) as error:
        assert "\n" not in str(error)
        return
    assert entries.encode(found) == data
    assert all(paths.safe_relative(path) for path in found.paths[1:])
    try:
        layout = pack.lay_out(found.paths, found.sizes, 1024)
    except pack.PackError:
        return
    assert layout.length >= int(found.sizes.sum())
    for at in (0, layout.length // 2, max(0, layout.length - 4096)):
        for piece in layout.pieces(at, 4096):
            assert piece.at >= 0 and 0 < piece.size <= 4096 - piece.at
            assert piece.offset >= 0 and piece.offset + piece.size <= found.sizes[piece.entry]


# --- the index ---

INDEX_FILES = [Version(size, 10**18, 10**18, size, 1) for size in (0, 100, 3000, 70_000)]
INDEX_BLOCK = 1024


def _index_trees() -> dict[Version, merkle.Tree]:
    return {
        version: merkle.Tree(version.length, INDEX_BLOCK, merkle.hash_leaves(bytes(version.length), INDEX_BLOCK))
        for version in INDEX_FILES
    }


def good_index() -> bytes:
    """The bytes of an index that knows a few files and a folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "index")
        with TreeCache(path) as cache:
            for version, tree in _index_trees().items():
                cache.put(version, tree, bytes(version.length) if version.length <= 900 else None, 2 * 10**18)
            cache.put_folder(1, 2, INDEX_BLOCK, b"folder" * 100)
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        return Path(path).read_bytes()


_good: list[bytes] = []


def index(data: bytes) -> None:
    """Changes of a good index, where and to what; whatever they are, no tree comes out that was not put in."""
    if not _good:
        _good.append(good_index())
    harmed = bytearray(_good[0])
    for at in range(0, len(data) - 3, 4):
        where, what, times = struct.unpack_from(">HBB", data, at)
        where = where * 7 % len(harmed)
        harmed[where : where + 1 + times % 16] = bytes([what]) * (1 + times % 16)
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "index")
        Path(path).write_bytes(harmed)
        with TreeCache(path, said.append) as cache:
            trees = _index_trees()
            for version, known in zip(trees, cache.get_many(list(trees), INDEX_BLOCK), strict=True):
                if known is not None:
                    assert known.tree.root == trees[version].root
                    assert known.inline is None or known.inline == bytes(version.length)
            assert cache.folder(1, 2, INDEX_BLOCK) in (None, b"folder" * 100)
            assert cache.same(INDEX_FILES[0], INDEX_FILES[1]) is False
            cache.put_folder(1, 2, INDEX_BLOCK, b"")
    assert all("\n" not in line for line in said)


# --- names ---


def names(data: bytes) -> None:
    shown = paths.printable(data)
    assert shown.isprintable() and paths.one_line(shown) == shown
    text = data.decode("utf-8", "surrogateescape")
    assert paths.one_line(text).isprintable()
    try:
        parts = paths.safe_relative(data)
    except UnsafeName as error:
        assert str(error).isprintable()
    else:
        assert b"/".join(parts) == data
        for part in parts:
            assert paths.plain_name(part) == part and part not in (b"", b".", b"..") and b"/" not in part
        assert paths.share_name(data) == parts[-1]


# --- MLD ---

US = bytes.fromhex("20010db8000000000000000000000001")
HOST = bytes.fromhex("fe800000000000000000000000000001")


class Known:
    """Every group of one prefix is ours."""

    def find(self, address: bytes) -> int:
        return address[15] if address[:15] == bytes.fromhex("ff15000102030405060708090a0b0c") else -1

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([self.find(row.tobytes()) >= 0 for row in addresses], bool)


def mld_message(data: bytes) -> None:
    """As a message to parser, membership and querier; as a packet to its reader."""
    try:
        whole = mld.parse(data)
    except MldError as error:
        assert error.reason
        whole = None
    everything = None
    with suppress(MldError):
        everything = mld.parse(data, lambda groups: np.ones(len(groups), bool))
    assert whole == everything, "the bulk reader and the plain one differ"
    try:
        source, _, message = mld.parse_packet(data)
        assert mld.is_link_local(source)
        assert len(message) <= len(data)
    except MldError as error:
        assert error.reason
    if 4 <= len(data) <= 1400:
        found = mld.parse_packet(mld.packet(HOST, ALL_MLDV2_ROUTERS, data))[2]
        assert found[:2] + found[4:] == data[:2] + data[4:]
    members = Membership(Known(), trackers.create("tree", 16, 0.0), 0.0, [US])
    querier, advertiser = Querier(HOST[:-1] + b"\2", 0.0), Advertiser(0.0)
    for now in (1.0, 2.0, 500.0):
        querier.receive(HOST, data, now)
        advertiser.receive(data, now)
        members.receive(HOST, data, now)
        members.tick(now + 1)
        assert len(members.groups()) <= ACTIVE_GROUPS_MAX
        assert all(mld.parse(message) for _, message in querier.due(now) + advertiser.due(now, 125.0, 2))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "mld": mld_message,
    "packet": packet,
    "manifest": manifest,
    "hashes": hashes,
    "entries": entry_list,
    "index": index,
    "paths": names,
}
assert HEADER_BYTES == 36
