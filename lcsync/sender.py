# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Streams: what a share sends on one group, packet after packet. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from lcsync._wire import Batch, Geometry
from lcsync.const import (
    MANIFEST_RETRY_MAX_S,
    MANIFEST_RETRY_S,
    NAME_INTERVALS_S,
    REPAIR_VISIT_SYMBOLS,
    REST_S,
    ROUND_S,
    SLOW_START_PART,
    SLOW_START_S,
    SLOW_START_SOURCE_S,
    SLOW_START_SYMBOLS,
    SOON_SYMBOLS,
    SPARE_DIVISOR,
    SPARE_SYMBOLS,
)
from lcsync.fountain import Fountain

CCI_MASK = 0xFFFFFFFF
DOUBLED_MAX = 64.0  # times: more than any rate there is

# Gives the bytes of one segment, None if it no longer has the content that it is sent under.
Loader = Callable[[int], "bytes | bytearray | memoryview | None"]


class Stream:
    """Packets of one group on one interface.

    ``fill`` appends up to ``limit`` packets to a batch and says when it wants to go
    on; infinity means that its content is gone. ``restart`` tells of a new listener.
    """

    def __init__(self, ifindex: int, address: bytes, toi: bytes, tsi: int, rate_bps: float) -> None:
        self.ifindex = ifindex
        self.address = address
        self.toi = toi
        self.tsi = tsi
        self.rate_bps = rate_bps
        self.cci = 0  # packet number on this group in this run (RFC 5651, CCI)
        self.due = 0.0  # when it wants to go on
        self.free_at = 0.0  # when its token bucket is no longer in debt
        self.sent_bytes = 0  # with IPv6 and UDP headers

    def go_on(self, cci: int) -> None:
        """Before all else: this group has had so many packets in this run."""
        self.cci = cci

    def restart(self, now: float, running: bool) -> bool:
        """A new listener, perhaps the first one: whether the stream wants to be served at once."""
        return False

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        raise NotImplementedError

    def _count(self, packets: int) -> None:
        self.cci = self.cci + packets & CCI_MASK


class NameStream(Stream):
    """The manifest: at once on a join, then at growing intervals, then each second."""

    def __init__(
        self,
        ifindex: int,
        address: bytes,
        toi: bytes,
        tsi: int,
        rate_bps: float,
        manifest: Callable[[], bytes | None],
    ) -> None:
        super().__init__(ifindex, address, toi, tsi, rate_bps)
        self.manifest = manifest
        self.step = 0
        self.retry_s = 0.5 * MANIFEST_RETRY_S

    def restart(self, now: float, running: bool) -> bool:
        self.step = 0
        self.retry_s = 0.5 * MANIFEST_RETRY_S
        return True

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        payload = self.manifest()
        if payload is None:
            self.retry_s = min(2 * self.retry_s, MANIFEST_RETRY_MAX_S)
            return now + self.retry_s
        self.retry_s = 0.5 * MANIFEST_RETRY_S
        batch.add_payload(payload, self.cci, self.tsi, self.toi)
        self._count(1)
        self.step = min(self.step + 1, len(NAME_INTERVALS_S) - 1)
        return now + NAME_INTERVALS_S[self.step]


class SlowStart:
    """The rate of what is sent though nobody may want it any more: low at first, for a leave takes its time, and
    doubled again and again while somebody stays, up to ``most_bps``.

    ``symbols``: those of the group; it begins with a part of them, so that what is sent in vain is a small part, too.
    To double it takes ``doubling_s``. The first rate, no more than ``rate_bps``, holds for ``soon_s`` even if
    ``most_bps`` is less.
    """

    def __init__(
        self, symbols: int, packet_bits: int, rate_bps: float, most_bps: float, soon_s: float, doubling_s: float
    ) -> None:
        self._first_bps = min(rate_bps, max(SLOW_START_SYMBOLS, SLOW_START_PART * symbols) * packet_bits)
        self._most_bps = most_bps
        self._soon_s = soon_s
        self._doubling_s = doubling_s
        self._since = 0.0

    def begin(self, now: float) -> float:
        self._since = now
        return self.rate_bps(now)

    def rate_bps(self, now: float) -> float:
        if now - self._since < self._soon_s:
            return self._first_bps
        doubled = min(max(0.0, now - self._since) / self._doubling_s, DOUBLED_MAX)
        return float(min(self._most_bps, self._first_bps * 2.0**doubled))


class Sent(Protocol):
    """Which source symbols are sent, where those of padding are not."""

    def padding(self, first: int, count: int) -> int:
        """How many symbols of some segments are not sent."""

    def runs(self, segment: int) -> Sequence[tuple[int, int]]:
        """The symbols of a segment that are sent: first and past-the-last number of each run."""


@dataclass
class Repair:
    """What repair symbols are made by: ``seed(segment)`` is that of their coefficients."""

    seed: Callable[[int], bytes]
    fountain: Fountain


class SymbolStream(Stream):
    """Symbols of the segments ``first`` … ``first + count`` of an object, in order, round and round.

    With ``source``, a whole round of source symbols follows each join: who joined has what he did not lose then, and
    leaves. Afterwards, and without ``source`` from the start, the rate is that of a slow start, for repair symbols
    where there is a ``repair``, else for source symbols. The rounds of a run start at segment ``at``, and leave out
    what is not ``sent``.
    """

    def __init__(
        self,
        ifindex: int,
        address: bytes,
        toi: bytes,
        tsi: int,
        rate_bps: float,
        packet_bits: int,
        geometry: Geometry,
        first: int,
        count: int,
        load: Loader,
        *,
        source: bool = True,
        repair: Repair | None = None,
        sent: Sent | None = None,
        at: int = 0,
    ) -> None:
        super().__init__(ifindex, address, toi, tsi, rate_bps)
        if not source and repair is None:
            raise ValueError("a stream of no symbols")
        self.count = count
        self.carry(geometry, first, load, repair, sent)
        self.left = 0  # packets until all who listen have been sent a whole round, and what follows it at once
        self.sbn, self.esi = at % count, 0
        self._source = source
        self._most_bps = rate_bps
        slow_bps = min(rate_bps, self.round * packet_bits / ROUND_S) if source else rate_bps
        # what follows waits for hashes: who lost a part of them gets more at once, and of a short list, too, soon
        self._spare = self.round // SPARE_DIVISOR + SPARE_SYMBOLS if source and repair else 0
        soon_s = (self.round + SOON_SYMBOLS) / SLOW_START_SYMBOLS if source and repair else 0.0
        # a round of source symbols alone is all that who joined wants: whoever is in the group still has left it
        symbols, doubling_s = (self.round, SLOW_START_S) if repair else (0, SLOW_START_SOURCE_S)
        self._slow = SlowStart(symbols, packet_bits, rate_bps, slow_bps, soon_s, doubling_s)
        self._visited = 0  # repair symbols sent in this visit

    def carry(self, geometry: Geometry, first: int, load: Loader, repair: Repair | None, sent: Sent | None) -> None:
        """Take the content from here: the same, but maybe of another object."""
        self.geometry, self.first, self.load, self.repair, self.sent = geometry, first, load, repair, sent
        self.round = self._before(self.count)

    def _before(self, sbn: int) -> int:
        """How many symbols of a round stand before a segment."""
        # all segments are full but the last one of an object
        symbols = self.geometry.symbols(self.first) * sbn
        if sbn == self.count:
            last = self.first + sbn - 1
            symbols -= self.geometry.symbols(self.first) - self.geometry.symbols(last)
        return symbols - (self.sent.padding(self.first, sbn) if self.sent else 0)

    def _runs(self, segment: int) -> Sequence[tuple[int, int]]:
        """The symbols of a segment that are sent, in order."""
        return self.sent.runs(segment) if self.sent else ((0, self.geometry.symbols(segment)),)

    def go_on(self, cci: int) -> None:
        """A group of nothing but source symbols goes on in its round: who left it in the middle has the rest first."""
        super().go_on(cci)
        if self.repair is None:
            at = (self._before(self.sbn) + cci) % self.round
            self.sbn = bisect_right(range(1, self.count), at, key=self._before)
            left = at - self._before(self.sbn)
            for start, stop in self._runs(self.first + self.sbn):
                self.esi = start + left
                if self.esi < stop:
                    break
                left -= stop - start

    def restart(self, now: float, running: bool) -> bool:
        if self._source:
            if not self.left:  # what the slow start owes is no reason to wait
                self.free_at = min(self.free_at, now)
            self.left = self.round + self._spare
            self.rate_bps = self._most_bps
        elif not running:
            self.rate_bps = self._slow.begin(now)
        return self._source

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        if not self.left:
            self.rate_bps = self._slow.rate_bps(now)
        if self.repair is not None and self.left <= self._spare:
            count = self._fill_repair(self.repair, batch, limit)
            if count < 0:
                return inf
        else:  # source symbols are packed here: at full speed, calls of functions of our own are what it costs
            segment = self.first + self.sbn
            data = self.load(segment)
            if data is None:
                return inf
            if self.left and limit > self.left - self._spare:
                limit = self.left - self._spare
            count = 0
            for start, stop in self._runs(segment):
                if stop > self.esi and count < limit:
                    if self.esi < start:
                        self.esi = start
                    some = stop - self.esi
                    if some > limit - count:
                        some = limit - count
                    batch.add(self.geometry, data, segment, self.cci, self.tsi, self.toi, self.sbn, self.esi, some)
                    self.cci = self.cci + some & CCI_MASK
                    self.esi += some
                    count += some
            if self.esi >= stop:
                self.esi, self.sbn = 0, (self.sbn + 1) % self.count
        if self.left:
            self.left = self.left - count if self.left > count else 0
            if not self.left:
                self.rate_bps = self._slow.begin(now + REST_S)
                return now + REST_S
        return now

    def _next_segment(self) -> None:
        self.esi = self._visited = 0
        self.sbn = (self.sbn + 1) % self.count

    def _fill_repair(self, repair: Repair, batch: Batch, limit: int) -> int:
        """How many packets; -1 if the content is gone."""
        segment = self.first + self.sbn
        visit = min(REPAIR_VISIT_SYMBOLS, self.geometry.symbols(segment))
        made = repair.fountain.ahead(self.toi, segment)
        if made is None:
            data = self.load(segment)
            if data is None:
                return -1
            made = repair.fountain.make(self.geometry, segment, repair.seed(segment), data)
        count = made.pack(batch, min(limit, visit - self._visited), self.cci, self.tsi, self.toi, self.sbn)
        repair.fountain.keep(self.toi, segment, made)
        self._count(count)
        self._visited += count
        if self._visited >= visit:
            self._next_segment()
        return count
