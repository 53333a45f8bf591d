# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Who sends next: round-robin over the streams whose groups have a listener, by token buckets.

A stream that was silent comes before those that go on, with its first packets and at its own rate: so a name, or a
small file, is not stuck behind the segments of large ones, however many those are. All such streams have half of the
limit before others, or who joins and leaves all the time would take all of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from lcsync.const import (
    BURST_PACKETS,
    BURST_S,
    CATCH_UP_S,
    FIRST_PACKETS,
    FIRST_PART,
    FIRST_S,
    SILENT_S,
    SPLIT_NODES_MAX,
    TURN_PACKETS,
    TURN_STREAMS,
)
from lcsync.sender import Stream

UNLIMITED = float("inf")

# Tells, for streams, which of their groups have a listener now: asks the trackers, in bulk.
Ask = Callable[[Sequence[Stream]], Sequence[bool]]


class Scheduler:
    """The run list. Times are seconds of a monotonic clock, rates bits per second (``inf``: no limit)."""

    def __init__(self, bwlimit_bps: float, packet_bits: int, batch_packets: int) -> None:
        self.bwlimit_bps = bwlimit_bps
        self.packet_bits = packet_bits
        self.batch_packets = batch_packets
        self.running: dict[Stream, int] = {}  # with the number of its entry in the queue that counts
        self.hurry = False  # the last turn took too long: the next ones are to be short
        self._queue: list[tuple[float, int, Stream]] = []
        self._sequence = 0
        self._free_at = 0.0  # when the bucket over all groups is no longer in debt
        self._first: dict[Stream, float] = {}  # streams that come before others, and with how many more bits
        self._first_queue: list[tuple[float, int, Stream]] = []
        self._first_free_at = 0.0  # when the bucket over them is no longer in debt

    def start(self, stream: Stream, now: float) -> None:
        """Put a stream on the run list, or tell a running one of a new listener."""
        hurry = stream.restart(now, stream in self.running)
        due = max(now, stream.free_at)  # however often somebody joins, the rate holds
        if stream not in self.running:
            if now >= stream.free_at + SILENT_S:  # else who leaves and joins all the time would hold up the others
                self._first[stream] = min(FIRST_PACKETS * self.packet_bits, FIRST_S * self.bwlimit_bps)
            self._push(stream, due)
        elif hurry and due < stream.due:
            self._push(stream, due)

    def stop(self, stream: Stream) -> None:
        """Take a stream off the run list: what it sends is no longer offered."""
        self.running.pop(stream, None)
        self._first.pop(stream, None)

    def put_off(self, stream: Stream, until: float) -> None:
        """Do not ask a stream before ``until``."""
        if stream in self.running:
            self._push(stream, max(stream.due, until))

    def _push(self, stream: Stream, due: float) -> None:
        stream.due = due
        self._sequence += 1
        self.running[stream] = self._sequence
        heapq.heappush(self._first_queue if stream in self._first else self._queue, (due, self._sequence, stream))

    def turn(self, ask: Ask, now: float) -> list[tuple[Stream, int]]:
        """The streams that may send now, with how many packets; those without a listener leave the list.

        Report each by ``sent`` before the next turn.
        """
        if self._free_at > now:
            return []
        ready: list[Stream] = []
        limits: list[int] = []
        count = packets = 0
        most = 1 if self.hurry else TURN_PACKETS
        while count < TURN_STREAMS and packets < most:
            queue = self._next_queue(now, count) if self._first_queue else self._queue
            if not queue or queue[0][0] > now:
                break
            _, entry, stream = heapq.heappop(queue)
            if stream in self.running and self.running[stream] == entry:
                limit = self.batch_packets
                if stream.rate_bps != UNLIMITED or stream in self._first:
                    limit = self._burst(stream)
                ready += (stream,)  # no call of append, here and below: at full speed calls are what a turn costs
                limits += (limit,)
                count += 1
                packets += limit
        if not ready:
            return []
        active = ask(ready)
        if False not in active:
            return [*zip(ready, limits, strict=True)]
        for stream, is_active in zip(ready, active, strict=True):
            if not is_active:
                self.stop(stream)
        return [(stream, limit) for stream, limit in zip(ready, limits, strict=True) if stream in self.running]

    def _next_queue(self, now: float, count: int) -> list[tuple[float, int, Stream]]:
        """The queue whose turn it is; ``count`` streams were taken in this turn."""
        first, rest = self._first_queue, self._queue
        if first[0][0] <= now and self._first_free_at <= now and (not count or self.bwlimit_bps == UNLIMITED):
            return first
        return rest if rest and rest[0] < first[0] else first

    def _burst(self, stream: Stream) -> int:
        """How many packets at once: BURST_S of its rate, or a few more where the limit sends those in BURST_S."""
        most = self.batch_packets
        if stream in self._first:
            most = min(FIRST_PACKETS, most)
        rate = stream.rate_bps if stream.rate_bps < self.bwlimit_bps else self.bwlimit_bps
        if rate == UNLIMITED:
            return most
        packets = rate * BURST_S / self.packet_bits
        if packets < BURST_PACKETS:
            packets = min(BURST_PACKETS, SPLIT_NODES_MAX * packets, self.bwlimit_bps * BURST_S / self.packet_bits)
        return max(1, min(most, int(packets)))

    def sent(self, stream: Stream, bits: int, wish: float, now: float) -> None:
        """A stream sent ``bits`` and wants to go on at ``wish`` (infinity: never)."""
        late = now - CATCH_UP_S
        self._free_at = (self._free_at if self._free_at > late else late) + bits / self.bwlimit_bps
        if stream in self._first:
            self._count_first(stream, bits, late)
        if wish == UNLIMITED:
            self.stop(stream)
            return
        free_at = stream.free_at = (stream.free_at if stream.free_at > late else late) + bits / stream.rate_bps
        due = stream.due = wish if wish > now and wish > free_at else free_at
        self._sequence += 1
        self.running[stream] = self._sequence
        heapq.heappush(self._first_queue if stream in self._first else self._queue, (due, self._sequence, stream))

    def _count_first(self, stream: Stream, bits: int, late: float) -> None:
        """A stream that comes before others sent something."""
        free_at = self._first_free_at if self._first_free_at > late else late
        self._first_free_at = free_at + bits / (FIRST_PART * self.bwlimit_bps)
        self._first[stream] -= bits
        if self._first[stream] <= 0:
            del self._first[stream]

    def next_time(self) -> float | None:
        """When ``turn`` has something to do again."""
        if self._first_queue:
            due = self._first_queue[0][0]
            if self._queue and self._queue[0][0] < due:
                due = self._queue[0][0]
        elif self._queue:
            due = self._queue[0][0]
        else:
            return None
        return due if due > self._free_at else self._free_at
