# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Who sends next: round-robin over the streams whose groups have a listener, by token buckets.

A stream that was silent comes before those that go on, with a short first burst: so a name, or a small file, is sent
whole before the next segments of large ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from lcsync.const import BURST_S, CATCH_UP_S, FIRST_BURST_PACKETS, SILENT_S, TURN_STREAMS
from lcsync.sender import Stream

# Tells, for streams, which of their groups have a listener now: asks the trackers, in bulk.
Ask = Callable[[Sequence[Stream]], Sequence[bool]]


class Scheduler:
    """The run list. Times are seconds of a monotonic clock, rates bits per second (``inf``: no limit)."""

    def __init__(self, bwlimit_bps: float, packet_bits: int, batch_packets: int) -> None:
        self.bwlimit_bps = bwlimit_bps
        self.packet_bits = packet_bits
        self.batch_packets = batch_packets
        self.running: dict[Stream, int] = {}  # with the number of its entry in the queue that counts
        self._queue: list[tuple[float, int, Stream]] = []
        self._sequence = 0
        self._free_at = 0.0  # when the bucket over all groups is no longer in debt
        self._first: set[Stream] = set()  # those whose next burst is their first one

    def start(self, stream: Stream, now: float) -> None:
        """Put a stream on the run list, or tell a running one of a new listener."""
        due = max(now, stream.free_at)  # however often somebody joins, the rate holds
        hurry = stream.restart(now)
        if stream not in self.running:
            if now >= stream.free_at + SILENT_S:  # else who leaves and joins all the time would hold up the others
                self._first.add(stream)
                due = float("-inf")
            self._push(stream, due)
        elif hurry and due < stream.due:
            self._push(stream, due)

    def stop(self, stream: Stream) -> None:
        """Take a stream off the run list: what it sends is no longer offered."""
        self.running.pop(stream, None)
        self._first.discard(stream)

    def put_back(self, stream: Stream) -> None:
        """A stream that a turn gave out was not asked for packets: it is the first to be asked next."""
        if stream in self.running:
            self._push(stream, stream.due)

    def put_off(self, stream: Stream, until: float) -> None:
        """Do not ask a stream before ``until``."""
        if stream in self.running:
            self._push(stream, max(stream.due, until))

    def _push(self, stream: Stream, due: float) -> None:
        stream.due = due
        self._sequence += 1
        self.running[stream] = self._sequence
        heapq.heappush(self._queue, (due, self._sequence, stream))

    def turn(self, ask: Ask, now: float) -> list[tuple[Stream, int]]:
        """The streams that may send now, with how many packets; those without a listener leave the list.

        Report each by ``sent`` before the next turn.
        """
        if self._free_at > now:
            return []
        ready: list[Stream] = []
        while self._queue and self._queue[0][0] <= now and len(ready) < TURN_STREAMS:
            _, entry, stream = heapq.heappop(self._queue)
            if self.running.get(stream) == entry:
                ready.append(stream)
        out = []
        for stream, active in zip(ready, ask(ready) if ready else (), strict=True):
            if active:
                out.append((stream, self._burst(stream)))
            else:
                self.stop(stream)
        return out

    def _burst(self, stream: Stream) -> int:
        most = min(FIRST_BURST_PACKETS, self.batch_packets) if stream in self._first else self.batch_packets
        rate = min(stream.rate_bps, self.bwlimit_bps)
        return most if rate == float("inf") else max(1, min(most, int(rate * BURST_S / self.packet_bits)))

    def sent(self, stream: Stream, bits: int, wish: float, now: float) -> None:
        """A stream sent ``bits`` and wants to go on at ``wish`` (infinity: never)."""
        self._first.discard(stream)
        self._free_at = max(self._free_at, now - CATCH_UP_S) + bits / self.bwlimit_bps
        if wish == float("inf"):
            self.stop(stream)
        else:
            stream.free_at = max(stream.free_at, now - CATCH_UP_S) + bits / stream.rate_bps
            self._push(stream, max(stream.free_at, wish) if wish > now else stream.free_at)

    def next_time(self) -> float | None:
        """When ``turn`` has something to do again."""
        if not self._queue:
            return None
        return max(self._queue[0][0], self._free_at)
