# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Rates, fairness, and who is asked about: in simulated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcsync._wire import Batch, Geometry, parse
from lcsync.const import (
    ACTIVE_GROUPS_MAX,
    BURST_PACKETS,
    FIRST_PACKETS,
    FIRST_S,
    NAME_INTERVALS_S,
    REST_S,
    ROUND_S,
    SLOW_START_SYMBOLS,
    SPARE_DIVISOR,
    SPARE_SYMBOLS,
    SPLIT_NODES_MAX,
    TURN_STREAMS,
)
from lcsync.fountain import Fountain
from lcsync.scheduler import Scheduler
from lcsync.sender import NameStream, Repair, Sent, Stream, SymbolStream

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
        self.counts: dict[Stream, list[int]] = {}
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
                self.counts.setdefault(stream, []).append(len(batch))
                rate_bps = stream.rate_bps * (SPLIT_NODES_MAX if len(batch) <= BURST_PACKETS else 1)
                self.longest_s = max(self.longest_s, bits / min(rate_bps, self.scheduler.bwlimit_bps))

    def packets(self, stream: Stream, until: float = inf) -> int:
        """How many were sent, in all or up to a time."""
        return sum(n for t, n in zip(self.times[stream], self.counts[stream], strict=True) if t <= until)

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


def test_hundreds_of_groups_have_equal_parts_and_none_is_silent() -> None:
    clock = Clock(1e8, late_s=0.0015)
    streams = [Endless(1e8 / 8) for _ in range(ACTIVE_GROUPS_MAX)]
    clock.add(*streams)
    clock.run(6.0)
    assert clock.rate() == pytest.approx(1e8, rel=0.03)
    for stream in streams:
        assert clock.rate(stream) == pytest.approx(1e8 / ACTIVE_GROUPS_MAX, rel=0.1)
        assert max(b - a for a, b in pairwise(clock.times[stream])) < 0.3


@pytest.mark.parametrize("bwlimit_bps", [1e7, 1e8])
def test_a_small_file_is_not_stuck_behind_hundreds_of_large_ones(bwlimit_bps: float) -> None:
    """It has a batch in each turn, where it would have one in 256."""
    clock = Clock(bwlimit_bps)
    clock.add(*(Endless(bwlimit_bps / 8) for _ in range(ACTIVE_GROUPS_MAX - 1)))
    clock.run(2.2 * ACTIVE_GROUPS_MAX * min(FIRST_PACKETS * PACKET_BITS, FIRST_S * bwlimit_bps) / bwlimit_bps)
    small, joined_at = symbol_stream(bwlimit_bps / 8), clock.now
    clock.add(small)
    clock.run(1.0)
    assert clock.packets(small, joined_at + 32 * (1 + TURN_STREAMS) * PACKET_BITS / bwlimit_bps) >= 25


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


GEOMETRY = Geometry(2500, 1000, 1000, 100)  # 3 segments of 10, 10 and 5 symbols
CONTENT = bytes(range(250)) * 10
SMALL_BITS = (100 + 36 + 48) * 8
SYMBOLS = [(0, i) for i in range(10)] + [(1, i) for i in range(10)] + [(2, i) for i in range(5)]


def symbol_stream(
    rate_bps: float = 1e8, source: bool = True, repair: bool = False, sent: Sent | None = None, at: int = 0
) -> SymbolStream:
    return SymbolStream(
        1, bytes(16), TOI, 1, rate_bps, SMALL_BITS, GEOMETRY, 0, 3, lambda i: CONTENT[i * 1000 : i * 1000 + 1000],
        source=source, repair=Repair(lambda i: bytes(32), Fountain(7)) if repair else None, sent=sent, at=at,
    )  # fmt: skip


def filled(stream: SymbolStream, packets: int, limit: int, now: float = 5.0) -> list[tuple[int, int, bytes, int, int]]:
    """Header fields of the next packets."""
    seen: list[tuple[int, int, bytes, int, int]] = []
    while len(seen) < packets:
        batch = Batch(100)
        stream.fill(batch, limit, now)
        seen += [parse(packet) for packet in batch.packets()]
    return seen


def test_a_round_follows_a_join_and_then_little() -> None:
    clock = Clock(1e9)
    stream = symbol_stream()
    clock.add(stream)
    clock.run(10.0)
    times = clock.times[stream]
    start = times[0]
    batches = [t - start for t in times]
    assert sum(t < REST_S for t in batches) == sum(t < 0.01 for t in batches), "it rests while leaves are on their way"
    assert clock.packets(stream, start + REST_S / 2) == 25
    assert clock.packets(stream, start + 0.2) < 25 + 12
    assert clock.packets(stream) <= 25 + 10.0 / ROUND_S * 25 + 5, "a second round takes its time"
    assert max(b - a for a, b in pairwise(times)) <= 1.0, "every active group gets a packet at least once a second"


def test_a_new_listener_gets_a_round_at_full_rate() -> None:
    clock = Clock(1e9)
    stream = symbol_stream()
    clock.add(stream)
    clock.run(5.1)
    before, joined_at = clock.packets(stream), clock.now
    clock.add(stream)
    clock.run(0.01)
    assert before + 25 <= clock.packets(stream) < before + 40
    assert next(t for t in clock.times[stream] if t >= joined_at) == pytest.approx(joined_at, abs=1e-6)


def test_a_new_listener_in_mid_round_does_not_begin_it_anew() -> None:
    stream = symbol_stream()
    assert stream.restart(0.0, False)
    first = filled(stream, 5, 5)
    assert stream.restart(0.0, True)
    assert [p[3:] for p in first + filled(stream, 25, 5)] == (SYMBOLS * 2)[:30]
    assert stream.left == 0


@pytest.mark.parametrize("limit", [1, 3, 64])
@pytest.mark.parametrize("at", [0, 4])
def test_source_symbols_go_round_and_round(limit: int, at: int) -> None:
    stream = symbol_stream(at=at)
    stream.restart(5.0, False)
    seen = filled(stream, 60, limit)
    first = SYMBOLS.index((at % 3, 0))
    assert [p[3:] for p in seen] == ((SYMBOLS[first:] + SYMBOLS[:first]) * 5)[: len(seen)]
    assert [p[0] for p in seen] == list(range(len(seen)))


class Some:
    """Symbols that are sent: none at the start of segment 0, none at the end of 1, every second one of 2."""

    RUNS = ([(4, 10)], [(0, 2), (3, 7)], [(0, 1), (2, 3), (4, 5)])

    def padding(self, first: int, count: int) -> int:
        symbols = sum((10, 10, 5)[first : first + count])
        return symbols - sum(b - a for runs in self.RUNS[first : first + count] for a, b in runs)

    def runs(self, segment: int) -> list[tuple[int, int]]:
        return self.RUNS[segment]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6, 64])
def test_what_is_not_sent_is_left_out(limit: int) -> None:
    stream = symbol_stream(sent=Some())
    assert stream.round == 15
    stream.restart(5.0, False)
    seen = filled(stream, 15, limit)
    expected = [(i, e) for i, runs in enumerate(Some.RUNS) for a, b in runs for e in range(a, b)]
    assert [p[3:] for p in seen[:15]] == expected
    assert stream.left == 0, "a round is what is sent"
    assert [p[0] for p in seen] == list(range(len(seen))), "packet numbers count what is sent"
    filled(stream, 60, limit)
    stream.restart(6.0, True)
    assert stream.left == 15


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_repair_symbols_come_in_visits_and_never_twice(limit: int) -> None:
    stream = symbol_stream(source=False, repair=True)
    assert not stream.restart(5.0, False)
    seen = filled(stream, 200, limit)
    visits = [len(list(group)) for _, group in groupby(p[3] for p in seen)]
    assert visits[:6] == [10, 10, 5, 10, 10, 5]
    assert all(p[4] >= (10, 10, 5)[p[3]] for p in seen)
    assert len({p[4] for p in seen}) == len(seen)


def test_hashes_come_in_a_source_round_and_then_as_repair_symbols() -> None:
    stream = symbol_stream(repair=True)
    stream.restart(5.0, False)
    seen = filled(stream, 60, 4)
    assert [p[3:] for p in seen[:25]] == SYMBOLS
    assert all(p[4] >= (10, 10, 5)[p[3]] for p in seen[25:])
    stream.restart(5.0, True)  # somebody else joins: source symbols again, a whole round
    assert sorted(p[3:] for p in filled(stream, 25, 1)) == SYMBOLS


def test_repair_starts_slowly_and_doubles() -> None:
    clock = Clock(1e9)
    stream = symbol_stream(rate_bps=1e8, source=False, repair=True)
    clock.add(stream)
    start = clock.now
    clock.run(0.05)
    first = clock.packets(stream)
    assert 0.5 < first / (SLOW_START_SYMBOLS * 0.05 / 0.693) < 1.5
    clock.run(0.05)
    assert 1.5 < (clock.packets(stream) - first) / first < 2.5
    clock.run(1.0)
    clock.run(0.1)
    late = clock.packets(stream) - clock.packets(stream, clock.now - 0.1)
    assert late * SMALL_BITS / 0.1 == pytest.approx(1e8, rel=0.05)
    assert clock.packets(stream, start + 0.02) < 20, "what is sent while a leave is on its way"


def test_packet_numbers_wrap() -> None:
    stream = symbol_stream()
    stream.cci = 2**32 - 3
    batch = Batch(100)
    stream.fill(batch, 5, 0.0)
    stream.fill(batch, 1, 0.0)
    assert [parse(packet)[0] for packet in batch.packets()] == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1, 2]


def test_a_round_of_hashes_ends_with_repair_symbols_and_more_come_soon() -> None:
    """Who lost a part of a short list does not wait for the half second that a round of it may take."""
    stream = symbol_stream(repair=True)
    stream.restart(0.0, False)
    spare = SPARE_SYMBOLS + 25 // SPARE_DIVISOR
    seen = filled(stream, 25 + spare, 5, now=1.0)
    assert [p[3:] for p in seen[:25]] == SYMBOLS
    assert all(esi >= 10 for *_, esi in seen[25 : 25 + spare])
    assert stream.left == 0
    assert stream.rate_bps == SLOW_START_SYMBOLS * SMALL_BITS
    filled(stream, 1, 1, now=1.0 + REST_S + 25 / SLOW_START_SYMBOLS)
    assert stream.rate_bps == SLOW_START_SYMBOLS * SMALL_BITS
    filled(stream, 1, 1, now=2.0)
    assert stream.rate_bps == 25 * SMALL_BITS / ROUND_S, "for a host that died it is little"


def test_a_slow_group_stays_slow() -> None:
    stream = symbol_stream(rate_bps=1e5, repair=True)
    stream.restart(0.0, False)
    filled(stream, 40, 5, now=1.0)
    assert stream.rate_bps <= 1e5
