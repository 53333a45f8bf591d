# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Streams: what a share sends on one group, packet after packet. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from lcsync._wire import Batch, Geometry
from lcsync.const import NAME_INTERVALS_S, ROUND_GAPS_S

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

    def restart(self, now: float) -> bool:
        """A new listener: whether the stream wants to be served at once."""
        return False

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        raise NotImplementedError

    def _count(self, packets: int) -> None:
        self.cci = self.cci + packets & 0xFFFFFFFF


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

    def restart(self, now: float) -> bool:
        self.step = 0
        return True

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        payload = self.manifest()
        if payload is None:
            return now + NAME_INTERVALS_S[1]
        batch.add_payload(payload, self.cci, self.tsi, self.toi)
        self._count(1)
        self.step = min(self.step + 1, len(NAME_INTERVALS_S) - 1)
        return now + NAME_INTERVALS_S[self.step]


class SymbolStream(Stream):
    """Source symbols of the segments under a node, in order, round and round.

    A short round is followed by a rest, longer each time: who joined leaves after
    one round, and what is sent between "enough" and the arrival of the leave is waste.
    """

    def __init__(
        self,
        ifindex: int,
        address: bytes,
        toi: bytes,
        tsi: int,
        rate_bps: float,
        geometry: Geometry,
        first: int,
        count: int,
        load: Loader,
    ) -> None:
        super().__init__(ifindex, address, toi, tsi, rate_bps)
        self.geometry = geometry
        self.first, self.count = first, count
        self.load = load
        self.round = self.sbn = self.esi = 0
        self._round_at = 0.0  # when the round began

    def restart(self, now: float) -> bool:
        self.round = 0
        return self.sbn == self.esi == 0

    def fill(self, batch: Batch, limit: int, now: float) -> float:
        segment = self.first + self.sbn
        data = self.load(segment)
        if data is None:
            return float("inf")
        if self.sbn == self.esi == 0:
            self._round_at = now
        total = self.geometry.symbols(segment)
        count = min(limit, total - self.esi)
        batch.add(self.geometry, data, segment, self.cci, self.tsi, self.toi, self.sbn, self.esi, count)
        self._count(count)
        self.esi += count
        if self.esi < total:
            return now
        self.esi = 0
        self.sbn += 1
        if self.sbn < self.count:
            return now
        self.sbn = 0
        self.round += 1
        return max(now, self._round_at + ROUND_GAPS_S[min(self.round, len(ROUND_GAPS_S)) - 1])
