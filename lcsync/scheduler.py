# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Who sends next: round-robin over the streams whose groups have a listener, by token buckets."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from lcsync.const import BURST_S, CATCH_UP_S, TURN_STREAMS
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

    def start(self, stream: Stream, now: float) -> None:
        """Put a stream on the run list, or tell a running one of a new listener."""
        hurry = stream.restart(now, stream in self.running)
        due = max(now, stream.free_at)  # however often somebody joins, the rate holds
        if stream not in self.running or (hurry and due < stream.due):
            self._push(stream, due)

    def stop(self, stream: Stream) -> None:
        """Take a stream off the run list: what it sends is no longer offered."""
        self.running.pop(stream, None)

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
        rate = min(stream.rate_bps, self.bwlimit_bps)
        if rate == float("inf"):
            return self.batch_packets
        return max(1, min(self.batch_packets, int(rate * BURST_S / self.packet_bits)))

    def sent(self, stream: Stream, bits: int, wish: float, now: float) -> None:
        """A stream sent ``bits`` and wants to go on at ``wish`` (infinity: never)."""
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
