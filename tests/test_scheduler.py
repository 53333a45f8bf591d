# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Rates, fairness, and who is asked about: in simulated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync._wire import Batch, Geometry, parse
from lcsync.const import NAME_INTERVALS_S, ROUND_GAPS_S
from lcsync.scheduler import Scheduler
from lcsync.sender import NameStream, Stream, SymbolStream

PACKET_BITS = 8 * (1376 + 36 + 48)
TOI = b"fourteen bytes"


class Endless(Stream):
    """Has always something to send, of full packets."""

    def __init__(self, rate_bps: float, pause_s: float = 0.0) -> None:
        super().__init__(1, bytes(16), TOI, 1, rate_bps)
        self.pause_s = pause_s
        self.content = bytes(1376)

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        for _ in range(limit):
            batch.add_payload(self.content, self.cci, self.tsi, self.toi)
            self._count(1)
        return now + self.pause_s if self.pause_s else now


class Clock:
    """Runs a scheduler as the loop of a share does; ``late_s``: how late its timers fire."""

    def __init__(self, bwlimit_bps: float, late_s: float = 0.0) -> None:
        self.scheduler = Scheduler(bwlimit_bps, PACKET_BITS, 64)
        self.late_s = late_s
        self.now = self.start = 1000.0
        self.bits: Counter[Stream] = Counter()
        self.asked: Counter[Stream] = Counter()
        self.absent: set[Stream] = set()
        self.times: dict[Stream, list[float]] = {}
        self.longest_s = 0.0

    def ask(self, streams: Sequence[Stream]) -> list[bool]:
        self.asked.update(streams)
        return [stream not in self.absent for stream in streams]

    def add(self, *streams: Stream) -> None:
        for stream in streams:
            self.scheduler.start(stream, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = self.scheduler.next_time()
            if due is None or due >= end:
                self.now = end
                return
            self.now = max(self.now + 1e-9, due + self.late_s)
            for stream, limit in self.scheduler.turn(self.ask, self.now):
                batch = Batch(1376)
                wish = stream.fill(batch, limit, self.now)
                bits = 8 * batch.bytes_on_wire()
                self.scheduler.sent(stream, bits, wish, self.now)
                self.bits[stream] += bits
                self.times.setdefault(stream, []).append(self.now)
                self.longest_s = max(self.longest_s, bits / min(stream.rate_bps, self.scheduler.bwlimit_bps))

    def rate(self, stream: Stream | None = None) -> float:
        bits = self.bits.total() if stream is None else self.bits[stream]
        return bits / (self.now - self.start)


@pytest.mark.parametrize("late_s", [0.0, 0.0005, 0.0015])
@pytest.mark.parametrize("rate_bps", [50_000, 1e6, 12.5e6, 1e8, 1e9])
def test_one_stream_gets_its_rate(rate_bps: float, late_s: float) -> None:
    clock = Clock(8 * rate_bps, late_s)
    stream = Endless(rate_bps)
    clock.add(stream)
    clock.run(max(3.0, 50 * PACKET_BITS / rate_bps) if rate_bps < 1e8 else 0.3)
    assert clock.rate() == pytest.approx(rate_bps, rel=0.03)
    assert clock.longest_s <= max(0.001, PACKET_BITS / rate_bps)


@pytest.mark.parametrize("late_s", [0.0, 0.0015])
@pytest.mark.parametrize("count", [2, 8, 9, 40, 100])
def test_many_streams_share_the_limit_equally(count: int, late_s: float) -> None:
    clock = Clock(8e7, late_s)
    streams = [Endless(1e7) for _ in range(count)]
    clock.add(*streams)
    clock.run(3.0)
    expected = min(1e7, 8e7 / count)
    assert clock.rate() <= 1.02 * 8e7
    assert clock.rate() == pytest.approx(count * expected, rel=0.03)
    for stream in streams:
        assert clock.rate(stream) == pytest.approx(expected, rel=0.05)


def test_without_a_limit_all_take_turns() -> None:
    clock = Clock(inf)
    streams = [Endless(inf) for _ in range(20)]
    clock.add(*streams)
    for _ in range(100):
        for stream, limit in clock.scheduler.turn(clock.ask, clock.now):
            assert limit == 64
            clock.bits[stream] += 1
            clock.scheduler.sent(stream, limit * PACKET_BITS, clock.now, clock.now)
        clock.now += 0.001
    assert max(clock.bits.values()) - min(clock.bits.values()) <= 4
    assert sum(clock.bits.values()) == 100 * 8


def test_a_slow_stream_is_not_lost_among_fast_ones() -> None:
    clock = Clock(1e7)
    slow, fast = Endless(1e5), [Endless(1e7) for _ in range(30)]
    clock.add(slow, *fast)
    clock.run(5.0)
    assert 0.7e5 < clock.rate(slow) <= 1.01e5


def test_unused_share_is_not_given_to_others() -> None:
    clock = Clock(8e6)
    stream = Endless(1e6)
    clock.add(stream)
    clock.run(2.0)
    assert clock.rate() == pytest.approx(1e6, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1e5, 1e6, 1e7]), st.sampled_from([0.0, 0.0, 0.03])), min_size=1, max_size=20),
    st.sampled_from([1e6, 1e7]),
    st.sampled_from([0.0, 0.001]),
    st.lists(st.tuples(st.integers(0, 19), st.booleans()), max_size=30),
)
def test_no_life_exceeds_a_rate(
    shapes: list[tuple[float, float]], bwlimit_bps: float, late_s: float, changes: list[tuple[int, bool]]
) -> None:
    """Streams come and go, pause, are restarted: neither a group's rate nor the limit is ever exceeded."""
    clock = Clock(bwlimit_bps, late_s)
    streams = [Endless(rate, pause) for rate, pause in shapes]
    clock.add(*streams)
    for number, joins in [*changes, (0, True)]:
        stream = streams[number % len(streams)]
        if joins:
            clock.absent.discard(stream)
            clock.scheduler.start(stream, clock.now)
        else:
            clock.absent.add(stream)
        clock.run(0.02)
    spent = clock.now - clock.start + 0.005
    assert clock.bits.total() <= bwlimit_bps * spent + 8 * max(PACKET_BITS, 0.001 * bwlimit_bps)
    for stream in streams:
        assert clock.bits[stream] <= stream.rate_bps * spent + 2 * max(PACKET_BITS, 0.001 * stream.rate_bps)
    clock.absent.clear()
    before = clock.bits.copy()
    clock.add(*streams)
    clock.run(10.0)
    assert all(clock.bits[stream] > before[stream] for stream in streams)


def test_who_is_absent_is_asked_once_and_off_the_list() -> None:
    clock = Clock(1e7)
    here, gone = Endless(1e6), Endless(1e6)
    clock.absent.add(gone)
    clock.add(here, gone)
    clock.run(1.0)
    assert clock.asked[gone] == 1 and clock.bits[gone] == 0
    assert list(clock.scheduler.running) == [here]
    clock.absent.add(here)
    clock.run(1.0)
    asked = clock.asked.copy()
    clock.run(100.0)
    assert clock.asked == asked
    assert clock.scheduler.next_time() is None and not clock.scheduler.running
    clock.absent.clear()
    clock.add(gone)
    clock.run(1.0)
    assert clock.bits[gone] > 0


def test_streams_that_pause_are_not_polled() -> None:
    clock = Clock(1e9)
    busy, pausing = Endless(1e6), Endless(1e6, pause_s=0.5)
    clock.add(busy, pausing)
    clock.run(10.0)
    assert 19 <= clock.asked[pausing] <= 21
    assert clock.asked[busy] > 500


def test_a_stream_without_content_leaves_the_list_and_can_come_back() -> None:
    clock = Clock(1e7)
    stream = Endless(1e6, pause_s=inf)
    clock.add(stream)
    clock.run(1.0)
    assert clock.asked[stream] == 1 and not clock.scheduler.running
    stream.pause_s = 0.0
    clock.add(stream)
    clock.run(1.0)
    assert clock.bits[stream] > 5e5


def test_stop_is_at_once() -> None:
    clock = Clock(1e7)
    stream = Endless(1e6)
    clock.add(stream)
    clock.run(0.5)
    before = clock.bits[stream]
    clock.scheduler.stop(stream)
    clock.run(0.5)
    assert clock.bits[stream] == before


# --- what streams wish ---


def name_stream(rate_bps: float = 1e6) -> NameStream:
    return NameStream(1, bytes(16), TOI, 1, rate_bps, lambda: b"a manifest")


def test_a_name_is_said_at_once_and_then_ever_less() -> None:
    clock = Clock(1e8)
    stream = name_stream()
    clock.add(stream)
    clock.run(10.0)
    pauses = [b - a for a, b in pairwise(clock.times[stream])]
    assert clock.times[stream][0] == pytest.approx(1000.0)
    expected = [*NAME_INTERVALS_S[1:], *[NAME_INTERVALS_S[-1]] * 20]
    assert pauses == pytest.approx(expected[: len(pauses)], abs=1e-3)
    assert max(pauses) <= 1.0 + 1e-6


def test_a_new_listener_hears_the_name_at_once_and_once() -> None:
    clock = Clock(1e8)
    stream = name_stream()
    clock.add(stream)
    clock.run(5.3)
    count = len(clock.times[stream])
    clock.add(stream)
    clock.run(0.04)
    assert len(clock.times[stream]) == count + 1
    clock.run(0.02)
    assert len(clock.times[stream]) == count + 2


def test_new_listeners_without_end_do_not_exceed_the_rate_nor_starve_the_name() -> None:
    clock = Clock(1e6)
    stream, others = name_stream(1e5), [Endless(1e6) for _ in range(20)]
    clock.add(stream, *others)
    for _ in range(2000):
        clock.add(stream)
        clock.run(0.001)
    assert len(clock.times[stream]) >= 8
    assert clock.rate(stream) < 1.03e5
    assert len(clock.scheduler._queue) < 200


def symbol_stream(rate_bps: float = 1e8) -> SymbolStream:
    geometry = Geometry(2500, 1000, 1000, 100)
    data = bytes(range(250)) * 10
    return SymbolStream(1, bytes(16), TOI, 1, rate_bps, geometry, 0, 3, lambda i: data[i * 1000 : i * 1000 + 1000])


def rounds(clock: Clock, stream: Stream) -> list[float]:
    """Pauses of a millisecond or more."""
    times = clock.times[stream]
    return [b - a for a, b in pairwise(times) if b - a >= 0.01]


def test_short_rounds_have_growing_pauses() -> None:
    clock = Clock(1e9)
    stream = symbol_stream()
    clock.add(stream)
    clock.run(10.0)
    pauses = rounds(clock, stream)
    expected = [*ROUND_GAPS_S, *[ROUND_GAPS_S[-1]] * 30]
    assert pauses == pytest.approx(expected[: len(pauses)], abs=2e-3)
    assert max(pauses) <= 1.0, "every active group gets a packet at least once a second"


def test_a_new_listener_ends_the_pause() -> None:
    clock = Clock(1e9)
    stream = symbol_stream()
    clock.add(stream)
    clock.run(5.1)
    assert clock.scheduler.next_time() is not None
    count = len(clock.times[stream])
    joined_at = clock.now
    clock.add(stream)
    clock.run(0.1)
    assert clock.times[stream][count] == pytest.approx(joined_at, abs=1e-6)
    assert rounds(clock, stream)[-1] == pytest.approx(ROUND_GAPS_S[1], abs=2e-3)


def test_a_new_listener_in_mid_round_does_not_begin_it_anew() -> None:
    stream = symbol_stream()
    batch = Batch(100)
    stream.fill(batch, 5, 0.0)
    assert not stream.restart(0.0)
    stream.fill(batch, 3, 0.0)
    assert [parse(packet)[4] for packet in batch.packets()] == list(range(8))


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_source_symbols_go_round_and_round(limit: int) -> None:
    stream = symbol_stream()
    seen: list[tuple[int, int, bytes, int, int]] = []
    while len(seen) < 60:
        batch = Batch(100)
        assert stream.fill(batch, limit, 5.0) in (5.0, *(5.0 + gap for gap in ROUND_GAPS_S))
        seen += [parse(packet) for packet in batch.packets()]
    symbols = [(0, i) for i in range(10)] + [(1, i) for i in range(10)] + [(2, i) for i in range(5)]
    assert [p[3:] for p in seen] == (symbols * 5)[: len(seen)]
    assert [p[0] for p in seen] == list(range(len(seen)))


def test_long_rounds_have_no_pauses() -> None:
    clock = Clock(1e9)
    stream = symbol_stream(rate_bps=20_000.0)  # a round of 25 packets of 184 bytes takes more than the longest pause
    clock.add(stream)
    clock.run(10.0)
    times = clock.times[stream]
    assert len(times) > 50
    assert max(b - a for a, b in pairwise(times[1:])) < 0.15


def test_packet_numbers_wrap() -> None:
    stream = symbol_stream()
    stream.cci = 2**32 - 3
    batch = Batch(100)
    stream.fill(batch, 5, 0.0)
    stream.fill(batch, 1, 0.0)
    assert [parse(packet)[0] for packet in batch.packets()] == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1, 2]
