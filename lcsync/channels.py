# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The groups that a receiver is in: opened as the plan says, closed when they bring nothing more. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lcsync import group, plan
from lcsync._wire import REPAIR_SYMBOLS, ROWS_PER_SEGMENT_SPARE, SOURCE_SYMBOLS, Assembler, Geometry
from lcsync.const import CROWDED_PACKETS, CROWDED_PART, HASH_BYTES, PLAN_S, SEGMENT_BYTES, SILENCE_S
from lcsync.download import Download
from lcsync.group import Kind
from lcsync.merkle import node_span
from lcsync.paths import printable
from lcsync.plan import Segments
from lcsync.wire import hashes_geometry

TAKES = {
    Kind.OUTLINE: SOURCE_SYMBOLS | REPAIR_SYMBOLS,
    Kind.LEAVES: SOURCE_SYMBOLS | REPAIR_SYMBOLS,
    Kind.SOURCE: SOURCE_SYMBOLS,
    Kind.REPAIR: REPAIR_SYMBOLS,
}
Wish = tuple[Kind, int, int]  # kind, level, node


@dataclass(eq=False)
class Channel:
    """A group that is joined: for the segments ``first … first + count`` of its download.

    Hashes are put together in an ``object`` of their own, and their parts kept in ``lists`` as they come; symbols of
    the content in the download's.
    """

    address: bytes
    kind: Kind
    ident: bytes
    download: Download
    level: int
    node: int
    first: int
    count: int
    object: int
    stream: int
    heard_at: float
    hashes: Geometry | None = None  # how the list is cut, if it carries hashes
    lists: dict[int, bytearray] = field(default_factory=dict)
    here: set[int] = field(default_factory=set)
    round: int = 0  # source symbols of its segments
    again: bool = False  # a source round that was broken off before
    rows: int = 0  # repair symbols that may have to wait
    packets: int = 0
    crowd: tuple[int, int] = (0, 0)  # packets and useless ones at the last look
    step: int = 0  # how often it has been joined again since it was last heard

    @property
    def span(self) -> range:
        return range(self.first, self.first + self.count)

    @property
    def where(self) -> slice:
        return slice(self.first, self.first + self.count)

    def part(self, number: int) -> bytearray:
        """The bytes of a part of the list of hashes."""
        assert self.hashes is not None
        if number not in self.lists:
            self.lists[number] = bytearray(self.hashes.segment_size(number))
        return self.lists[number]

    def part_of(self, segment: int) -> int:
        """The part that has the block hashes of a segment."""
        assert self.hashes is not None
        return (segment - self.first) * self.leaves_bytes // self.hashes.segment_bytes

    @property
    def leaves_bytes(self) -> int:
        """The block hashes of a segment."""
        return SEGMENT_BYTES // self.download.block_bytes * HASH_BYTES


@dataclass
class Loss:
    """Packets by the gaps in their numbers."""

    received: int = 0
    lost: int = 0


class Channels:
    """At most ``limit`` groups at once, with at most ``rows`` repair symbols on their way through them.

    Where ``limit`` falls, the last of a fixed order are closed: receivers behind one bottleneck keep the same groups.
    """

    def __init__(
        self,
        assembler: Assembler,
        scope: int,
        limit: int,
        rows: int,
        say: Callable[[str], None] | None = None,
        key: bytes = b"",
    ) -> None:
        self.assembler = assembler
        self.key = key
        self.scope = scope
        self.limit = limit
        self.open: list[Channel] = []
        self.changed = True  # something that the plan hangs on
        self.joins = 0
        self.by_kind = dict.fromkeys(Kind, 0)  # packets
        self._rows = rows
        self._say = say
        self._said: dict[Download, str] = {}
        self._closed = Loss()
        self._plan_at = 0.0

    @property
    def loss(self) -> Loss:
        """Of all groups so far."""
        counts = [self.assembler.stream_counts(channel.stream) for channel in self.open]
        return Loss(
            self._closed.received + sum(packets for packets, _, _ in counts),
            self._closed.lost + sum(lost for _, lost, _ in counts),
        )

    def of_object(self, number: int) -> Channel | None:
        """The channel of an object that is a list of hashes."""
        return next((c for c in self.open if c.object == number and c.hashes), None)

    def look_at(self, download: Download, segment: int) -> None:
        """A segment is whole: was it the last one of a channel?"""
        for channel in self.open:
            if channel.download is download and segment in channel.span and not self._needed(channel, ()):
                self.changed = True

    def update(self, now: float, downloads: Sequence[Download]) -> tuple[list[bytes], list[bytes]]:
        """Groups to leave and groups to join now."""
        leaves: list[bytes] = []
        joins: list[bytes] = []
        for channel in list(self.open):
            packets = self.assembler.stream_counts(channel.stream)[0]
            if channel.kind is Kind.SOURCE and self._round_is_over(channel):
                channel.download.fresh[channel.where] = False
                self._leave(channel, leaves)
            elif self.changed and not self._needed(channel, downloads):
                self._leave(channel, leaves)
            elif packets != channel.packets:
                channel.packets, channel.heard_at, channel.step = packets, now, 0
            elif now - channel.heard_at >= SILENCE_S[min(channel.step, len(SILENCE_S) - 1)]:
                channel.heard_at = now
                channel.step += 1
                if channel.kind is Kind.REPAIR and not packets and channel.step > 1:
                    channel.download.plain[channel.where] = True  # as of a share that hears no joins
                    self.changed = True
                leaves.append(channel.address)
                joins.append(channel.address)
        if len(self.open) > self.limit:
            for channel in sorted(self.open, key=lambda c: self._order(c, downloads))[self.limit :]:
                self._break_off(channel, leaves)
        if self.changed or now >= self._plan_at:
            self.changed, self._plan_at = False, now + PLAN_S
            for download in downloads:
                self._plan(download, now, leaves, joins)
        here = {channel.address for channel in self.open}
        joins = [address for address in joins if address in here]  # not one joined again and then left after all
        self.joins += len(joins)
        return list(dict.fromkeys(leaves)), joins

    def _needed(self, channel: Channel, downloads: Iterable[Download]) -> bool:
        download = channel.download
        if downloads and download not in downloads:
            return False
        if channel.kind is Kind.OUTLINE:
            return download.nodes is None
        if channel.kind is Kind.LEAVES:
            return bool(download.asked[channel.where].any())
        return bool(download.sought_in(channel.where).any())

    def _round_is_over(self, channel: Channel) -> bool:
        """Whether a whole round of source symbols has gone by, or they come twice because two hosts send them."""
        first, last, more = self.assembler.stream_run(channel.stream)
        packets, _, useless = self.assembler.stream_counts(channel.stream)
        if packets and (last - first & 0xFFFFFFFF) + 1 >= channel.round:
            return True
        before = channel.crowd
        if packets - before[0] < CROWDED_PACKETS:
            return False
        channel.crowd = packets, useless
        return more and useless - before[1] > CROWDED_PART * (packets - before[0])

    @staticmethod
    def _order(channel: Channel, downloads: Sequence[Download]) -> tuple[int, ...]:
        """Which goes first: of each download the hashes, then the content from its beginning."""
        known = channel.download in downloads
        return (downloads.index(channel.download) if known else len(downloads), channel.kind, channel.first)

    def _break_off(self, channel: Channel, leaves: list[bytes]) -> None:
        """Leave a group that still brings something; of a source round, what has not gone by yet is to come again."""
        if channel.kind is Kind.SOURCE:
            channel.download.fresh[channel.where] &= self._ahead(channel)
        self._leave(channel, leaves)

    def _ahead(self, channel: Channel) -> Segments:
        """The segments of a source round that has not reached them: no path loses more than half of one."""
        download = channel.download
        need = np.frombuffer(self.assembler.missing(download.object), np.uint16)[channel.where]
        ahead: Segments = download.sought[channel.where] & (2 * need.astype(np.int64) > download.symbols[channel.where])
        return ahead

    # --- what to join ---

    def _plan(self, download: Download, now: float, leaves: list[bytes], joins: list[bytes]) -> None:
        """Open the channels that bring what ``download`` lacks, as far as there is room."""
        mine = [c for c in self.open if c.download is download]
        if download.nodes is None:
            if not mine:
                self._join((Kind.OUTLINE, 0, 0), download, now, joins)
            return
        if not download.ready or not download.lack.any():
            return
        asked = download.asked.copy()
        need = np.frombuffer(self.assembler.missing(download.object), np.uint16).astype(np.int64)
        need[~download.sought] = 0
        for channel in mine:
            if channel.kind is Kind.LEAVES:
                asked[channel.where] = False
            elif channel.kind is Kind.SOURCE:
                need[channel.where] = 0
                if channel.again and not (download.fresh[channel.where] & self._ahead(channel)).any():
                    channel.round = 0  # what was missing of the round has gone by
        if asked.any():
            for node in plan.leaves_nodes(asked):
                self._join((Kind.LEAVES, *node), download, now, joins)
        if not need.any():
            return
        repairing = {(c.level, c.node): c for c in mine if c.kind is Kind.REPAIR}
        if len(self.open) >= self.limit and not repairing:
            return
        source, repair = plan.data_nodes(need, download.symbols, download.fresh, download.plain, repairing, self._rows)
        self._tell(download, need, source, repair)
        for node in repairing.keys() - set(repair):
            self._leave(repairing[node], leaves)
        for node in source:
            self._join((Kind.SOURCE, *node), download, now, joins)
        for node in repair:
            if node not in repairing:
                if len(self.open) >= self.limit:
                    break
                self._join((Kind.REPAIR, *node), download, now, joins, need)

    def _tell(self, download: Download, need: plan.Counts, source: list[plan.Node], repair: list[plan.Node]) -> None:
        """Say the plan, whenever it changes its kind."""
        if self._say is None:
            return
        kinds = f"{len(source)} source groups" if source else ""
        for level in sorted({level for level, _ in repair}, reverse=True):
            many = sum(at == level for at, _ in repair)
            kinds += f"{', ' if kinds else ''}{many} repair groups of up to {1 << level} segments"
        kind = "source" if source else "repair"
        if self._said.get(download) != kind:
            self._said[download] = kind
            lacking = np.count_nonzero(need)
            self._say(f"{printable(download.label)}: {lacking} segments lack {int(need.sum())} symbols; plan: {kinds}")

    def _join(
        self,
        wish: Wish,
        download: Download,
        now: float,
        joins: list[bytes],
        need: plan.Counts | None = None,
    ) -> None:
        kind, level, node = wish
        if len(self.open) >= self.limit:
            return
        ident = download.root if kind is Kind.OUTLINE else download.node_hash(level, node)
        address = group.address(group.group_id(kind, download.symbol_bytes, ident, self.key), self.scope)
        if any(c.address == address for c in self.open):  # on its way for another download
            return
        span = range(0) if kind is Kind.OUTLINE else node_span(level, node, len(download.outline))
        rows = 0
        if need is not None:
            here = need[span.start : span.stop]
            rows = int(here.sum()) + ROWS_PER_SEGMENT_SPARE * int(np.count_nonzero(here))
            waiting = sum(c.rows for c in self.open)
            if waiting and waiting + rows > self._rows:
                return
        self.open.append(self._channel(kind, ident, address, download, level, node, span, rows, now))
        joins.append(address)

    def _channel(
        self,
        kind: Kind,
        ident: bytes,
        address: bytes,
        download: Download,
        level: int,
        node: int,
        span: range,
        rows: int,
        now: float,
    ) -> Channel:
        """Expect a group's packets."""
        toi = group.toi(kind, download.symbol_bytes, ident, self.key)
        if kind in (Kind.SOURCE, Kind.REPAIR):
            number, first, count, hashes = download.object, span.start, len(span), None
        else:
            many = download.geometry.segments if kind is Kind.OUTLINE else download.blocks_under(span)
            hashes = hashes_geometry(many, download.symbol_bytes)
            number, first, count = self.assembler.add_object(hashes), 0, hashes.segments
            for part in range(count):
                self.assembler.want(number, part)
        stream = self.assembler.add_stream(toi, number, first, count, TAKES[kind])
        here = slice(span.start, span.stop)
        fresh, plain = download.fresh[here], download.plain[here]
        return Channel(
            address, kind, ident, download, level, node, span.start, len(span), number, stream, now, hashes,
            round=int(download.symbols[here].sum()), again=bool(fresh.any() and not fresh.all() and not plain.any()),
            rows=rows,
        )  # fmt: skip

    # --- what to leave ---

    def _leave(self, channel: Channel, leaves: list[bytes]) -> None:
        leaves.append(channel.address)
        self._close(channel)
        self.changed = True

    def _close(self, channel: Channel) -> None:
        packets, lost, _ = self.assembler.stream_counts(channel.stream)
        self._closed.received += packets
        self._closed.lost += lost
        self.by_kind[channel.kind] += packets
        self.assembler.remove_stream(channel.stream)
        if channel.hashes:
            self.assembler.remove_object(channel.object)
        self.open.remove(channel)

    def forget(self, download: Download) -> None:
        """A download is over: what was kept for it goes, and at the next update its groups are left."""
        self.changed = True
        self._said.pop(download, None)

    def close(self) -> list[bytes]:
        """Leave all groups; returns their addresses."""
        out: list[bytes] = []
        for channel in list(self.open):
            self._leave(channel, out)
        return out
