# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Symbols to packets and back, against slow readings of docs/protocol.md; and that nothing hostile gets through."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync import wire
from lcsync._wire import (
    BATCH_PACKETS,
    EVENT_COMPLETE,
    EVENT_SPILL,
    REASON_WORDS,
    STREAMS_MAX,
    Assembler,
    Batch,
    Geometry,
    parse,
)
from lcsync.const import BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SEGMENT_BYTES, SYMBOLS_MAX

TOI = b"fourteen bytes"
TSI = 0x123456789ABC


# --- the slow reference ---


class Packet(NamedTuple):
    cci: int
    tsi: int
    toi: bytes
    sbn: int
    esi: int
    payload: bytes


def read(packet: bytes) -> Packet:
    """The header by RFC 5651 (LCT) and RFC 5445 (FEC payload ID)."""
    number = int.from_bytes
    first = number(packet[:2], "big")
    assert first >> 12 == 1, "version"
    assert first >> 10 & 3 == 0, "C: CCI of 32 bits"
    assert first >> 8 & 3 == 0, "PSI"
    s, o, h = first >> 7 & 1, first >> 5 & 3, first >> 4 & 1
    assert first & 15 == 0, "reserved, A, B"
    tsi_bytes, toi_bytes = 4 * s + 2 * h, 4 * o + 2 * h
    assert (tsi_bytes, toi_bytes) == (6, 14)
    assert packet[2] * 4 == 4 + 4 + tsi_bytes + toi_bytes == 28, "header length in words"
    assert packet[3] == 128, "codepoint"
    return Packet(
        number(packet[4:8], "big"),
        number(packet[8:14], "big"),
        packet[14:28],
        number(packet[28:32], "big"),
        number(packet[32:36], "big"),
        packet[36:],
    )


def write(p: Packet) -> bytes:
    head = bytes((0x10, 0xF0, 7, 128)) + p.cci.to_bytes(4, "big") + p.tsi.to_bytes(6, "big")
    return head + p.toi + p.sbn.to_bytes(4, "big") + p.esi.to_bytes(4, "big") + p.payload


def cut(length: int, segment_bytes: int, block_bytes: int, symbol_bytes: int) -> list[list[tuple[int, int]]]:
    """``(offset, length)`` of each symbol of each segment."""
    out = []
    for start in range(0, max(length, 1), segment_bytes):
        size = min(segment_bytes, length - start)
        symbols = []
        for block in range(0, size, block_bytes):
            end = min(block + block_bytes, size)
            symbols += [(at, min(symbol_bytes, end - at)) for at in range(block, end, symbol_bytes)]
        out.append(symbols)
    return out


@st.composite
def shapes(draw: st.DrawFn, most: int = 20_000) -> tuple[int, int, int, int]:
    """Odd sizes that fit each other: length, segment, block, symbol."""
    symbol = draw(st.integers(1, 200))
    block = draw(st.integers(1, 1000))
    segment = block * draw(st.integers(1, 6))
    return draw(st.integers(0, most)), segment, block, symbol


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# --- sizes ---


@settings(deadline=None)  # the slow one is slow
@given(shapes())
def test_geometry_is_the_slow_one(shape: tuple[int, int, int, int]) -> None:
    geometry, reference = Geometry(*shape), cut(*shape)
    length, segment_bytes, block_bytes, symbol_bytes = shape
    assert geometry.segments == len(reference)
    for segment, symbols in enumerate(reference):
        assert geometry.segment_size(segment) == sum(n for _, n in symbols)
        assert geometry.symbols(segment) == len(symbols)
        assert [geometry.place(segment, esi) for esi in range(len(symbols))] == symbols
        assert all(at // block_bytes == (at + n - 1) // block_bytes for at, n in symbols), "crosses a block"
        for beyond in (len(symbols), len(symbols) + 1, 2**32 - 1):
            with pytest.raises(IndexError):
                geometry.place(segment, beyond)
    assert geometry.segment_size(geometry.segments) == 0
    assert (geometry.length, geometry.segment_bytes) == (length, segment_bytes)
    assert (geometry.block_bytes, geometry.symbol_bytes) == (block_bytes, symbol_bytes)


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0), (1, 10, 3, 1), (1 << 60, 1, 1, 1), (1, 1 << 31, 1 << 31, 1),
        (1, 1, 1, 1 << 31),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError):
        Geometry(*sizes)


def test_symbol_sizes() -> None:
    assert [wire.symbol_bytes(mtu) for mtu in (1280, 1500, 9000)] == [1152, 1376, 8896]
    for mtu in range(1280, 9217):
        size = wire.symbol_bytes(mtu)
        assert wire.is_symbol_size(size)
        assert size + 36 + 16 + 48 <= mtu < size + 32 + 36 + 16 + 48


@pytest.mark.parametrize("size", [0, 32, 1120, 1153, -1376, wire.symbol_bytes(9216) + 32, 1 << 40, 1376.0, True, None])
def test_no_mtu_gives_other_symbol_sizes(size: object) -> None:
    assert not wire.is_symbol_size(size)


@pytest.mark.parametrize("size", [0, 1, 512, 1025, BLOCK_BYTES_MAX * 2, -4096, 16384.0, True, None])
def test_other_block_sizes_are_refused(size: object) -> None:
    assert not wire.is_block_size(size)


@pytest.mark.parametrize("mtu", [1280, 1500, 9216])
def test_whatever_a_manifest_may_say_fits_a_receiver(mtu: int) -> None:
    assembler = Assembler(1, SEGMENT_BYTES, SYMBOLS_MAX)
    block, symbol = BLOCK_BYTES_MIN, wire.symbol_bytes(mtu)
    while block <= BLOCK_BYTES_MAX:
        assert wire.is_block_size(block)
        for geometry in (
            wire.source_geometry(5 * SEGMENT_BYTES + 1, block, symbol),
            wire.hashes_geometry(100_000, symbol),
        ):
            assert max(geometry.symbols(i) for i in range(geometry.segments)) <= SYMBOLS_MAX
            assembler.remove_object(assembler.add_object(geometry))
        block *= 2
    assert wire.source_geometry(1 << 21, 16384, 1376).symbols(0) == 768


# --- packing ---


@given(shapes(), st.data())
def test_packets_say_what_was_asked(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    geometry, reference = Geometry(*shape), cut(*shape)
    index = data.draw(st.integers(0, len(reference) - 1))
    start = index * shape[1]
    segment = payload(shape[0])[start : start + shape[1]]
    esi = data.draw(st.integers(0, len(reference[index])))
    count = data.draw(st.integers(0, min(BATCH_PACKETS, len(reference[index]) - esi)))
    cci, tsi = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(0, 2**48 - 1))
    sbn, toi = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.binary(min_size=14, max_size=14))
    batch = Batch(shape[3] + data.draw(st.integers(0, 3)))
    batch.add(geometry, segment, index, cci, tsi, toi, sbn, esi, count)
    packets = batch.packets()
    assert len(packets) == len(batch) == count
    assert batch.bytes_on_wire() == sum(len(p) + 48 for p in packets)
    for i, packet in enumerate(packets):
        at, n = reference[index][esi + i]
        expected = Packet((cci + i) % 2**32, tsi, toi, sbn, esi + i, segment[at : at + n])
        assert read(packet) == expected
        assert packet == write(expected)
        assert parse(packet) == expected[:5]


def test_a_batch_holds_several_runs() -> None:
    geometry = Geometry(10_000, 5000, 500, 100)
    data = payload(10_000)
    batch = Batch(100)
    batch.add(geometry, data[:5000], 0, 7, TSI, TOI, 0, 48, 2)
    batch.add(geometry, memoryview(data)[5000:], 1, 9, TSI, TOI, 1, 0, 3)
    batch.add_payload(b"as it is", 12, TSI, TOI)
    got = [read(packet) for packet in batch.packets()]
    numbers = [(7, 0, 48), (8, 0, 49), (9, 1, 0), (10, 1, 1), (11, 1, 2), (12, 0, 0)]
    assert [(p.cci, p.sbn, p.esi) for p in got] == numbers
    assert got[2].payload == data[5000:5100] and got[-1].payload == b"as it is"
    batch.clear()
    assert batch.packets() == [] and batch.bytes_on_wire() == 0


def test_a_batch_points_into_a_buffer_and_holds_it_until_it_is_cleared() -> None:
    geometry = Geometry(500, 500, 500, 100)
    data = bytearray(500)
    batch = Batch(100)
    batch.add(geometry, data, 0, 0, TSI, TOI, 0, 0, 5)
    data[100:200] = payload(100)
    assert read(batch.packets()[1]).payload == payload(100), "no copy is made"
    with pytest.raises(BufferError):
        data.clear()
    batch.clear()
    data.clear()
    view = memoryview(bytearray(500))
    batch.add(geometry, view, 0, 0, TSI, TOI, 0, 0, 0)  # nothing of it, so it is not held
    view.release()
    view = memoryview(bytearray(500))
    batch.add(geometry, view, 0, 0, TSI, TOI, 0, 4, 1)
    del batch
    view.release()


def test_a_batch_refuses_what_does_not_fit() -> None:
    geometry = Geometry(200_000, 200_000, 500, 100)
    data = payload(200_000)
    batch = Batch(100)
    for esi, count in ((0, BATCH_PACKETS + 1), (2000, 1), (1999, 2), (2**32 - 1, 2), (0, 2**32 - 1)):
        with pytest.raises(IndexError):
            batch.add(geometry, data, 0, 0, TSI, TOI, 0, esi, count)
    words = memoryview(bytes(200_000 * 4)).cast("I")
    for segment, index, toi in ((data[:-1], 0, TOI), (data, 1, TOI), (data, 0, TOI[1:]), (words, 0, TOI)):
        with pytest.raises(ValueError):
            batch.add(geometry, segment, index, 0, TSI, toi, 0, 0, 1)
    with pytest.raises(ValueError):
        Batch(99).add(geometry, data, 0, 0, TSI, TOI, 0, 0, 1)
    with pytest.raises(ValueError):
        batch.add_payload(bytes(101), 0, TSI, TOI)
    batch.add(geometry, data, 0, 0, TSI, TOI, 0, 0, BATCH_PACKETS)
    with pytest.raises(IndexError):
        batch.add_payload(b"one more", 0, TSI, TOI)
    assert len(batch) == BATCH_PACKETS


@pytest.mark.parametrize(("packet", "word"), [(b"", "short"), (bytes(35), "short"), (bytes(36), "bad-header")])
def test_parse_says_what_is_wrong(packet: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse(packet)


# --- putting together ---

SHAPE = (10_000, 4000, 1000, 300)  # 3 segments of 4, 4 and 2 blocks; a block is 4 symbols, the last of 100
DATA = payload(SHAPE[0])
SEGMENTS = 3


def symbols_of(shape: tuple[int, int, int, int], data: bytes, toi: bytes = TOI, first: int = 0) -> list[bytes]:
    """All packets of an object, SBN 0 being segment ``first``."""
    out: list[bytes] = []
    for segment, symbols in enumerate(cut(*shape)):
        for esi, (at, n) in enumerate(symbols):
            start = segment * shape[1] + at
            if segment >= first:
                out.append(write(Packet(len(out), TSI, toi, segment - first, esi, data[start : start + n])))
    return out


PACKETS = symbols_of(SHAPE, DATA)


def events_of(assembler: Assembler) -> Iterator[tuple[int, int, int, int]]:
    """What happened, one by one."""
    while (event := assembler.event()) is not None:
        yield event


class Sink:
    """Empties an assembler into a store, as a receiver does."""

    def __init__(self, assembler: Assembler, shape: tuple[int, int, int, int], number: int) -> None:
        self.assembler, self.shape, self.number = assembler, shape, number
        self.store = bytearray(shape[0])
        self.complete: set[int] = set()
        self.spills = 0

    def empty(self) -> None:
        for kind, number, segment, slot in events_of(self.assembler):
            assert number == self.number
            view = self.assembler.data(slot)
            for offset, length in self.assembler.runs(slot):
                start = segment * self.shape[1] + offset
                self.store[start : start + length] = view[offset : offset + length]
            if kind == EVENT_COMPLETE:
                assert segment not in self.complete
                self.complete.add(segment)
                self.assembler.release(slot)
            else:
                assert kind == EVENT_SPILL
                self.spills += 1
                self.assembler.release(slot)


def assembling(slots: int = 4, want: bool = True) -> tuple[Assembler, Sink, int]:
    assembler = Assembler(slots, SHAPE[1], 64)
    number = assembler.add_object(Geometry(*SHAPE))
    stream = assembler.add_stream(TOI, number, 0, SEGMENTS)
    for segment in range(SEGMENTS if want else 0):
        assembler.want(number, segment)
    return assembler, Sink(assembler, SHAPE, number), stream


def fed(assembler: Assembler, packet: bytes) -> str:
    """The word under which one packet is counted."""
    before = assembler.counters()
    assembler.feed([packet])
    after = assembler.counters()
    changed = [word for word in REASON_WORDS if after[word] != before[word]]
    assert len(changed) == 1 and after[changed[0]] == before[changed[0]] + 1
    assert (after["bytes"] != before["bytes"]) == (changed == ["accepted"])
    return changed[0]


@given(
    shapes(6000),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
    st.floats(0, 0.6),
    st.floats(0, 1),
)
def test_any_order_any_loss_any_number_of_slots(
    shape: tuple[int, int, int, int], slots: int, chance: random.Random, loss: float, laziness: float
) -> None:
    data = payload(shape[0])
    most = max(len(symbols) for symbols in cut(shape[1], *shape[1:]))
    assembler = Assembler(slots, shape[1], most)
    number = assembler.add_object(Geometry(*shape))
    segments = len(cut(*shape))
    assembler.add_stream(TOI, number, 0, segments)
    sink = Sink(assembler, shape, number)
    for segment in range(segments):
        assembler.want(number, segment)
    packets = symbols_of(shape, data)
    wanted = {i for i, symbols in enumerate(cut(*shape)) if symbols}
    for round_number in range(60):
        order = packets[:]
        chance.shuffle(order)
        for packet in order:
            if chance.random() >= loss or round_number > 20:
                assembler.feed([packet] * chance.choice([1, 1, 2]))
            if chance.random() >= laziness or (round_number > 20 and chance.random() < 0.3):
                sink.empty()
        sink.empty()
        if sink.complete == wanted:
            break
    assert sink.complete == wanted
    assert sink.store == data
    assert all(fed(assembler, packet) == "unwanted" for packet in packets)


def test_with_one_slot_for_many_segments_each_round_brings_something() -> None:
    assembler, sink, _ = assembling(slots=1)
    for i in range(16):
        for segment in range(SEGMENTS):
            assembler.feed([p for p in PACKETS if read(p)[3:5] == (segment, i)])
            sink.empty()
            assembler.feed([p for p in PACKETS if read(p)[3:5] == (segment, i)])
            sink.empty()
    assert sink.store == DATA and sink.complete == {0, 1, 2} and sink.spills > 10


def symbols(*blocks: bool) -> bytes:
    """A bool per symbol: the blocks have four each."""
    return bytes(here for here in blocks for _ in range(4))


def test_blocks_that_are_here_are_not_taken_again() -> None:
    assembler, sink, _ = assembling(want=False)
    sink.store[:] = DATA
    sink.store[1000:2000] = bytes(1000)
    sink.store[9000:] = bytes(1000)
    assembler.want(sink.number, 0, symbols(True, False, True, True))
    assembler.want(sink.number, 2, symbols(True, False))
    words = [fed(assembler, packet) for packet in PACKETS]
    expected = ["duplicate"] * 4 + ["accepted"] * 4 + ["unwanted"] * 24  # it was complete then
    assert words == expected + ["duplicate"] * 4 + ["accepted"] * 4
    events = list(events_of(assembler))
    assert [(kind, segment) for kind, _, segment, _ in events] == [(EVENT_COMPLETE, 0), (EVENT_COMPLETE, 2)]
    assert [assembler.runs(slot) for *_, slot in events] == [[(1000, 1000)], [(1000, 1000)]]
    assert bytes(assembler.data(events[0][3])[1000:2000]) == DATA[1000:2000]


def test_runs_are_merged_and_in_order() -> None:
    assembler, sink, _ = assembling(slots=1)
    assembler.feed([PACKETS[i] for i in (15, 0, 2, 3, 4, 9)])
    assembler.feed([PACKETS[16]])  # another segment needs the only slot
    ((kind, _, segment, slot),) = events_of(assembler)
    assert (kind, segment) == (EVENT_SPILL, 0)
    assert assembler.runs(slot) == [(0, 4000)]  # nothing that is here is in between
    assembler.release(slot)
    assembler.want(sink.number, 0, symbols(False, True, False, False))
    assembler.feed([PACKETS[i] for i in (13, 0, 2, 3)])
    assembler.feed([PACKETS[17]])
    events = list(events_of(assembler))
    assert [assembler.runs(slot) for *_, segment, slot in events if not segment] == [[(0, 1000), (3300, 300)]]


def test_asking_anew_starts_anew() -> None:
    """As after a segment that was complete and wrong, and when blocks turn out to be here meanwhile."""
    assembler, sink, _ = assembling()
    assembler.feed(PACKETS[:10])
    assembler.want(sink.number, 0, symbols(True, True, False, False))
    assert [fed(assembler, packet) for packet in PACKETS[:16]] == ["duplicate"] * 8 + ["accepted"] * 8
    (event,) = events_of(assembler)
    assert event[0] == EVENT_COMPLETE
    assert assembler.runs(event[3]) == [(2000, 2000)]
    assembler.release(event[3])
    assert fed(assembler, PACKETS[0]) == "unwanted"
    assembler.want(sink.number, 0)
    assert [fed(assembler, packet) for packet in PACKETS[:16]] == ["accepted"] * 16
    for _ in range(100):  # no slot is lost
        assembler.want(sink.number, 1)
        assert fed(assembler, PACKETS[16]) == "accepted"


def test_when_nobody_empties_it_drops_and_goes_on() -> None:
    assembler, sink, _ = assembling(slots=2)
    words = [fed(assembler, packet) for packet in PACKETS]
    assert words[:32] == ["accepted"] * 32
    assert words[32:] == ["no-room"] * 8
    sink.empty()
    assert [fed(assembler, packet) for packet in PACKETS[32:]] == ["accepted"] * 8
    sink.empty()
    assert sink.store == DATA


def test_a_stream_may_begin_inside_its_object() -> None:
    assembler, sink, _ = assembling()
    other = b"another stream"
    assembler.add_stream(other, sink.number, 2, 1)
    assembler.feed(symbols_of(SHAPE, DATA, other, first=2))
    sink.empty()
    assert sink.complete == {2}
    assert sink.store[8000:] == DATA[8000:]
    assert fed(assembler, write(Packet(0, TSI, other, 1, 0, DATA[:300]))) == "bad-sbn"
    for first, count in ((0, 4), (3, 1), (1, 3), (2**32 - 1, 2)):
        with pytest.raises(ValueError):
            assembler.add_stream(TOI, sink.number, first, count)
    for number in range(STREAMS_MAX - 2):
        assembler.add_stream(b"%14d" % number, sink.number, 0, 1)
    with pytest.raises(IndexError):
        assembler.add_stream(TOI, sink.number, 0, 1)


def test_a_removed_stream_is_foreign() -> None:
    assembler, _, stream = assembling()
    assert fed(assembler, PACKETS[0]) == "accepted"
    assembler.remove_stream(stream)
    assert fed(assembler, PACKETS[1]) == "foreign-toi"


def test_an_object_can_go_while_its_slots_are_pending() -> None:
    assembler, sink, _ = assembling(slots=4)
    other = assembler.add_object(Geometry(*SHAPE))
    assembler.add_stream(b"other object's", other, 0, SEGMENTS)
    for segment in range(SEGMENTS):
        assembler.want(other, segment)
    assembler.feed(PACKETS[:17])  # one complete and one begun
    assembler.feed(symbols_of(SHAPE, DATA, b"other object's")[:17])
    assert assembler.pending()
    assembler.remove_object(sink.number)
    events = list(events_of(assembler))
    assert [event[:2] for event in events] == [(EVENT_COMPLETE, other)]
    assembler.release(events[0][3])
    assert fed(assembler, PACKETS[0]) == "foreign-toi"
    with pytest.raises(IndexError):
        assembler.want(sink.number, 0)
    for _ in range(20):  # its number and its slots are free
        again = assembler.add_object(Geometry(*SHAPE))
        assert again == sink.number
        assembler.add_stream(TOI, again, 0, SEGMENTS)
        assembler.want(again, 0)
        assembler.feed(PACKETS[:16])
        (event,) = events_of(assembler)
        assert bytes(assembler.data(event[3])) == DATA[:4000]
        assembler.remove_object(again)


def test_misuse_raises() -> None:
    assembler, sink, _ = assembling()
    for number, segment in ((sink.number, 3), (sink.number + 1, 0), (-1, 0)):
        with pytest.raises(IndexError):
            assembler.want(number, segment)
    for slot in (-1, 0, 4):
        for call in (assembler.release, assembler.data, assembler.runs):
            with pytest.raises(IndexError):
                call(slot)
    assembler.feed(PACKETS[:16])
    (event,) = events_of(assembler)
    assembler.release(event[3])
    with pytest.raises(IndexError):
        assembler.release(event[3])
    for geometry in (Geometry(1, 4001, 4001, 300), Geometry(1, 4000, 1000, 10)):
        with pytest.raises(ValueError):
            assembler.add_object(geometry)
    with pytest.raises(ValueError):
        Assembler(0, 1, 1)


# --- loss ---


def test_loss_is_the_gaps_of_one_run() -> None:
    assembler, _, stream = assembling()
    packet = PACKETS[0]

    def feed(cci: int, tsi: int = TSI) -> tuple[int, int]:
        assembler.feed([write(read(packet)._replace(cci=cci % 2**32, tsi=tsi))])
        return assembler.stream_counts(stream)[:2]

    assert feed(-3) == (1, 0)
    assert feed(-2) == (2, 0)
    assert feed(2) == (3, 3)
    assert feed(0) == (4, 2)  # late
    assert feed(2) == (5, 2)  # twice
    assert feed(3) == (6, 2)
    assert feed(1000, TSI + 1) == (7, 2)  # another host sends the same
    assert feed(4) == (8, 2)
    assert assembler.stream_run(stream) == (2**32 - 3, 4, True)
    for i in range(64):  # our run is silent: the other one takes its place
        feed(1001 + i, TSI + 1)
    assert assembler.stream_run(stream) == (1064, 1064, True)
    assert feed(1066, TSI + 1) == (73, 3)


def test_what_is_useless_is_counted() -> None:
    assembler, _, stream = assembling()
    for _ in range(3):
        assembler.feed(PACKETS[:16])
    assert assembler.stream_counts(stream) == (48, 0, 32)


# --- hostile packets ---


@pytest.mark.parametrize(
    ("packet", "word"),
    [
        (b"", "short"),
        (PACKETS[0][:35], "short"),
        (PACKETS[0][:36], "bad-size"),
        (PACKETS[0][:-1], "bad-size"),
        (PACKETS[0] + b"x", "bad-size"),
        (PACKETS[0] + bytes(70_000), "bad-size"),
        (write(read(PACKETS[0])._replace(esi=3)), "bad-size"),
        (b"\x20" + PACKETS[0][1:], "bad-header"),
        (PACKETS[0][:3] + b"\0" + PACKETS[0][4:], "bad-header"),
        (write(read(PACKETS[0])._replace(toi=bytes(14))), "foreign-toi"),
        (write(read(PACKETS[0])._replace(sbn=3)), "bad-sbn"),
        (write(read(PACKETS[0])._replace(sbn=2**32 - 1)), "bad-sbn"),
        (write(read(PACKETS[0])._replace(esi=16)), "bad-esi"),
        (write(read(PACKETS[0])._replace(esi=2**32 - 1)), "bad-esi"),
        (write(read(PACKETS[0])._replace(sbn=2, esi=8)), "bad-esi"),
        (write(read(PACKETS[0])._replace(tsi=0, cci=2**31)), "accepted"),
    ],
)
def test_each_fault_has_its_word(packet: bytes, word: str) -> None:
    assembler, _, _ = assembling()
    assert fed(assembler, packet) == word


def judge(packet: bytes) -> str:
    """What must become of a packet for an object that lacks everything."""
    if len(packet) < 36:
        return "short"
    if packet[:4] != PACKETS[0][:4]:
        return "bad-header"
    p = read(packet)
    if p.toi != TOI:
        return "foreign-toi"
    reference = cut(*SHAPE)
    if p.sbn >= len(reference):
        return "bad-sbn"
    if p.esi >= len(reference[p.sbn]):
        return "bad-esi"
    return "accepted" if len(p.payload) == reference[p.sbn][p.esi][1] else "bad-size"


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Noise, or a true packet with bits turned, cut short or made longer."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=400))
    packet = bytearray(draw(st.sampled_from(PACKETS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, 8 * 36 - 1))
        packet[at // 8] ^= 1 << at % 8
    size = draw(st.one_of(st.just(len(packet)), st.integers(0, 2 * len(packet))))
    return bytes(packet[:size].ljust(size, b"x"))


@settings(max_examples=500)
@given(hostile())
def test_hostile_packets_are_judged_as_by_the_slow_reader(packet: bytes) -> None:
    assembler, _, _ = assembling()
    assert fed(assembler, packet) == judge(packet)


@given(st.lists(hostile(), max_size=60), st.integers(1, 3))
def test_only_what_is_wanted_is_taken(packets: list[bytes], slots: int) -> None:
    assembler, sink, _ = assembling(slots, want=False)
    assembler.want(sink.number, 1, symbols(False, True, False, True))
    expected = bytearray(SHAPE[0])
    lacking = [(1, esi) for esi in (0, 1, 2, 3, 8, 9, 10, 11)]
    for packet in packets:
        good = judge(packet) == "accepted" and read(packet)[3:5] in lacking
        assert (fed(assembler, packet) == "accepted") == good
        if good:
            p = read(packet)
            at, n = cut(*SHAPE)[p.sbn][p.esi]
            expected[4000 + at : 4000 + at + n] = p.payload
            lacking.remove((p.sbn, p.esi))
        sink.empty()
    assert sink.complete == (set() if lacking else {1})
    if not lacking:
        assert sink.store == expected
    assert sum(assembler.counters()[word] for word in REASON_WORDS) == len(packets)


def test_memory_is_flat_under_a_flood() -> None:
    assembler = Assembler(8, SEGMENT_BYTES, SYMBOLS_MAX)
    symbol = 1376
    number = assembler.add_object(wire.source_geometry(1 << 34, 16384, symbol))
    assembler.add_stream(TOI, number, 0, 1 << 14)
    for segment in range(1 << 14):
        assembler.want(number, segment)
    chance = random.Random(1)

    def flood(count: int) -> None:
        """Symbols of random segments: each needs a slot, none gets complete."""
        for _ in range(count):
            packet = Packet(0, TSI, TOI, chance.randrange(1 << 14), 12 * chance.randrange(64), bytes(symbol))
            assembler.feed([write(packet)])
            for kind, _, _, slot in events_of(assembler):
                assert kind == EVENT_SPILL
                assembler.release(slot)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    flood(2000)
    before = resident()
    flood(20_000)
    assert resident() - before < 4 << 20


def test_one_thread_feeds_and_another_empties() -> None:
    shape = (3_000_000, 64_000, 4000, 500)
    data = payload(shape[0])
    packets = symbols_of(shape, data)
    assembler = Assembler(3, shape[1], 200)
    number = assembler.add_object(Geometry(*shape))
    segments = len(cut(*shape))
    assembler.add_stream(TOI, number, 0, segments)
    for segment in range(segments):
        assembler.want(number, segment)
    sink = Sink(assembler, shape, number)
    stop = threading.Event()

    def feed() -> None:
        chance = random.Random(2)
        while not stop.is_set():
            for start in range(0, len(packets), 300):
                part = packets[start : start + 300]
                chance.shuffle(part)
                assembler.feed(part[: chance.randint(150, 300)])
                if stop.is_set():
                    return

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        end = time.monotonic() + 20
        while len(sink.complete) < segments and time.monotonic() < end:
            sink.empty()
            if len(sink.complete) % 7 == 3:
                spare = assembler.add_object(Geometry(*SHAPE))  # the table of objects may move meanwhile
                assembler.remove_object(spare)
    finally:
        stop.set()
        thread.join()
    assert len(sink.complete) == segments
    assert sink.store == data
